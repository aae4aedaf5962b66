"""The reader's end of an Attach stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import grpc.aio

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import Digest
from dstack_mesh.v1 import run_pb2, transfer_pb2
from dstack_mesh.wire.ending import Ending
from dstack_mesh.wire.packing import unpack
from dstack_scheduler.agent_port import AttachEvent
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire import convert

WANTS = 16_384
"""Digests of one Want."""

REQUESTS = 64
"""Requests waiting to be written. A reader that is so far ahead of the connection waits."""

WRITE_SECONDS = 5.0

AttachCall = grpc.aio.StreamStreamCall[run_pb2.AttachRequest, run_pb2.AttachResponse]


class Requests:
    """What the reader says, queued for the one writer that a stream may have."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[run_pb2.AttachRequest] = asyncio.Queue(maxsize=REQUESTS)

    async def put(self, request: run_pb2.AttachRequest) -> None:
        """Queues a request; `Unreachable` if the connection takes none for a while."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._waiting.put(request)
        except TimeoutError as error:
            raise Unreachable("The agent does not read.", f"For {WRITE_SECONDS:.0f} s.") from error

    async def __aiter__(self) -> AsyncGenerator[run_pb2.AttachRequest, None]:
        while True:
            yield await self._waiting.get()


class GrpcAttachment:
    """Implements `agent_port.Attachment` over a stream that is open."""

    def __init__(self, call: AttachCall, requests: Requests, store: ChunkStore, peer: str) -> None:
        self._call = call
        self._requests = requests
        self._store = store
        self._ending = Ending(call, peer)

    async def follow(
        self, key: JobKey, stdout_offset: int = 0, stderr_offset: int = 0, until_now: bool = False
    ) -> None:
        follow = run_pb2.Follow(
            key=convert.key_to_wire(key),
            stdout_offset_bytes=stdout_offset,
            stderr_offset_bytes=stderr_offset,
            until_now=until_now,
        )
        await self._requests.put(run_pb2.AttachRequest(follow=follow))

    async def ack(self, key: JobKey, stdout_offset: int, stderr_offset: int) -> None:
        ack = run_pb2.Ack(
            key=convert.key_to_wire(key),
            stdout_offset_bytes=stdout_offset,
            stderr_offset_bytes=stderr_offset,
        )
        await self._requests.put(run_pb2.AttachRequest(ack=ack))

    async def stop(self, key: JobKey, abort: bool, cause: str) -> None:
        stop = run_pb2.StopRequest(run_id=key.run_id, job=key.job, abort=abort, cause=cause)
        await self._requests.put(run_pb2.AttachRequest(stop=stop))

    async def want(self, digests: Sequence[Digest]) -> None:
        for start in range(0, len(digests), WANTS):
            want = transfer_pb2.Want(digests=b"".join(digests[start : start + WANTS]))
            await self._requests.put(run_pb2.AttachRequest(want=want))

    async def events(self) -> AsyncGenerator[AttachEvent, None]:
        """What the agent sends. Chunks that were wanted go to the store and are no event."""
        try:
            async for response in self._call:
                if response.WhichOneof("kind") == "pack":
                    await asyncio.to_thread(self._store.put, unpack(response.pack))
                elif (event := event_from_wire(response)) is not None:
                    yield event
        except grpc.aio.AioRpcError as failed:
            raise await self._ending.why(failed) from failed


def event_from_wire(wire: run_pb2.AttachResponse) -> AttachEvent | None:
    """What the agent said; None for something that this version does not know, or a pack."""
    match wire.WhichOneof("kind"):
        case "log":
            return convert.frame_from_wire(wire.log)
        case "state":
            return convert.state_from_wire(wire.state)
        case "artifact":
            return convert.artifact_from_wire(wire.artifact)
        case "gap":
            return convert.gap_from_wire(wire.gap)
        case "fin":
            return convert.fin_from_wire(wire.fin)
        case "end_of_log":
            return convert.end_of_log_from_wire(wire.end_of_log)
        case "pack" | None:
            return None
