"""One Attach stream: a task that reads what the reader says, and a pump for each job followed.

All write to the one stream, a message at a time: a reader that is slow delays its pumps and nobody
else. What is told of a job keeps this order: its states, its log, and what came after the log's
end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from dstack_agent.jobs.chronicle import Followed
from dstack_agent.jobs.tail import Tail
from dstack_agent.servicers.delivery import Delivery
from dstack_agent.servicers.pump import Pump, Send
from dstack_agent.servicers.share import Share
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.v1 import run_pb2 as pb
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire import convert, fields

MOST_FOLLOWED = 64
"""Jobs that one stream may follow: a run's jobs and their attempts are far fewer."""


@frozen
class Wishes:
    """What a stream can ask of the agent.

    Attributes:
        follow: Finds an attempt. Raises Missing.
        stop: Writes down that jobs of a run shall end: run, job, abort, cause.
        givers: The peers that gave a run to this agent, while something of it goes on here.
    """

    follow: Callable[[JobKey], Followed]
    stop: Callable[[RunId, int | None, bool, str], Awaitable[int]]
    store: ChunkStore
    givers: Callable[[RunId], Awaitable[frozenset[PeerId]]]


@dataclass(slots=True)
class Attachment:
    """An open stream.

    Attributes:
        stop: Ends a run or one job of it for the caller: run, job, abort, cause. Raises Forbidden.
        share: What all streams of the caller may take together.
    """

    wishes: Wishes
    write: Send
    stop: Callable[[RunId, int | None, bool, str], Awaitable[int]]
    share: Share = field(default_factory=Share)
    _tails: dict[JobKey, Tail] = field(default_factory=dict[JobKey, Tail])
    _followed: int = 0
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, requests: AsyncIterator[pb.AttachRequest]) -> None:
        """Serves until the reader has nothing more to say and all it follows has ended."""
        delivery = Delivery(self.wishes.store, self.share, self._send)
        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await self._heed(request, delivery, group)
        finally:
            delivery.close()
            self.share.follow(-self._followed)

    async def _heed(
        self, request: pb.AttachRequest, delivery: Delivery, group: asyncio.TaskGroup
    ) -> None:
        match request.WhichOneof("kind"):
            case "follow":
                self._follow(request.follow, group)
            case "ack":
                self._acknowledge(request.ack)
            case "stop":
                await self.stop(*stop_from_wire(request.stop))
            case "want":
                delivery.want(request.want.digests, group)
            case None:
                return

    def _follow(self, wire: pb.Follow, group: asyncio.TaskGroup) -> None:
        if self._followed >= MOST_FOLLOWED:
            raise Busy("The stream follows too many jobs.", f"At most {MOST_FOLLOWED}.")
        self.share.follow(1)
        self._followed += 1
        followed = self.wishes.follow(convert.key_from_wire(wire.key, newest=True))
        tail = Tail(followed.journal, *_offsets(wire))
        self._tails[followed.key] = tail
        pump = Pump(followed, tail, wire.until_now, self._send, self._turn)
        group.create_task(pump.run())

    def _acknowledge(self, wire: pb.Ack) -> None:
        key, offsets = convert.key_from_wire(wire.key), _offsets(wire)
        if key in self._tails:
            self._tails[key].acknowledged(*offsets)

    async def _send(self, response: pb.AttachResponse) -> None:
        async with self._writing:
            await self.write(response)


def _offsets(wire: pb.Follow | pb.Ack) -> tuple[int, int]:
    """How far a reader has come in the two streams of a job."""
    return (
        fields.count(wire.stdout_offset_bytes, "The offset"),
        fields.count(wire.stderr_offset_bytes, "The offset"),
    )


def stop_from_wire(wire: pb.StopRequest) -> tuple[RunId, int | None, bool, str]:
    """Run, job, abort and cause of a wish to stop."""
    job = wire.job if wire.HasField("job") else None
    cause = fields.text(wire.cause, "The cause", fields.PATH)
    return fields.run_id(wire.run_id), job, wire.abort, cause
