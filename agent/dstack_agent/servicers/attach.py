"""One Attach stream: a task that reads what the reader says, and a pump for each job followed.

All write to the one stream, a message at a time: a reader that is slow delays its pumps and nobody
else. What is told of a job keeps this order: its states, its log, and what came after the log's
end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dstack_agent.bell import Bell
from dstack_agent.executor import record
from dstack_agent.jobs.chronicle import Chronicle, Followed, Told
from dstack_agent.jobs.tail import PATIENCE_SECONDS, Piece, Tail
from dstack_agent.logs.journal import Frame, Hole
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Busy
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_mesh.v1 import job_pb2, transfer_pb2
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.wire.transfer import pack_chunks
from dstack_scheduler.job import ArtifactSaved, Fin, JobKey, JobState, LogStream, StateChange
from dstack_scheduler.wire import convert, fields

MOST_FOLLOWED = 64
"""Jobs that one stream may follow: a run's jobs and their attempts are far fewer."""

MOST_WANTED = 262_144
"""Chunks that one stream may have asked for and not received: a list of 8 MiB."""

ACK_SECONDS = 1.0
"""Acknowledgements are cumulative; they are written down at most so often."""

GAP_REASON = "the bytes were lost on the agent's disk"
CUT_REASON = "the log reached its limit of {:,} bytes; the agent's setting `max_log` raises it"

CLOSING = frozenset(state for state in JobState if state.ended) | {JobState.SAVING}
"""States that begin when the log is complete."""

STREAMS: dict[LogStream, pb.LogStream.ValueType] = {
    LogStream.STDOUT: pb.LOG_STREAM_STDOUT,
    LogStream.STDERR: pb.LOG_STREAM_STDERR,
}

Numbered = tuple[int, Told]
Send = Callable[[pb.AttachResponse], Awaitable[None]]
T = TypeVar("T")


@frozen
class Wishes:
    """What a stream can ask of the agent.

    Attributes:
        follow: Finds an attempt. Raises Missing.
        stop: Writes down that jobs of a run shall end: run, job, abort, cause.
        acknowledge: Remembers what a reader has safely.
        givers: The peers that gave a run to this agent, while something of it goes on here.
    """

    follow: Callable[[JobKey], Followed]
    stop: Callable[[RunId, int | None, bool, str], Awaitable[int]]
    acknowledge: Callable[[JobKey, int, int], Awaitable[None]]
    store: ChunkStore
    givers: Callable[[RunId], Awaitable[frozenset[PeerId]]]


@dataclass(slots=True)
class Attachment:
    """An open stream. `check_stop` raises Forbidden unless the caller may stop that run."""

    wishes: Wishes
    write: Send
    check_stop: Callable[[RunId], Awaitable[None]]
    _followed: int = 0
    _wanted: int = 0
    _acked_at: float = 0.0
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, requests: AsyncIterator[pb.AttachRequest]) -> None:
        """Serves until the reader has nothing more to say and all it follows has ended."""
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await self._heed(request, group)

    async def _heed(self, request: pb.AttachRequest, group: asyncio.TaskGroup) -> None:
        match request.WhichOneof("kind"):
            case "follow":
                self._follow(request.follow, group)
            case "ack":
                await self._acknowledge(request.ack)
            case "stop":
                run_id, job, abort, cause = stop_from_wire(request.stop)
                await self.check_stop(run_id)
                await self.wishes.stop(run_id, job, abort, cause)
            case "want":
                self._want(request.want.digests, group)
            case None:
                return

    def _follow(self, wire: pb.Follow, group: asyncio.TaskGroup) -> None:
        self._followed += 1
        if self._followed > MOST_FOLLOWED:
            raise Busy("The stream follows too many jobs.", f"At most {MOST_FOLLOWED}.")
        followed = self.wishes.follow(convert.key_from_wire(wire.key, newest=True))
        tail = Tail(followed.journal, *_offsets(wire))
        pump = Pump(followed, tail, wire.until_now, self._send)
        group.create_task(pump.run())

    async def _acknowledge(self, wire: pb.Ack) -> None:
        now = time.monotonic()
        if now - self._acked_at >= ACK_SECONDS:
            self._acked_at = now
            key = convert.key_from_wire(wire.key)
            await self.wishes.acknowledge(key, *_offsets(wire))

    def _want(self, wire: bytes, group: asyncio.TaskGroup) -> None:
        size = fields.DIGEST_BYTES
        wanted = [fields.digest(wire[start : start + size]) for start in range(0, len(wire), size)]
        self._wanted += len(wanted)
        if self._wanted > MOST_WANTED:
            raise Busy("The stream wants too many chunks at once.", f"At most {MOST_WANTED:,}.")
        group.create_task(self._send_chunks(wanted))

    async def _send_chunks(self, wanted: list[Digest]) -> None:
        async for pack in _packs(self.wishes.store, wanted):
            await self._send(pb.AttachResponse(pack=pack))
        self._wanted -= len(wanted)

    async def _send(self, response: pb.AttachResponse) -> None:
        async with self._writing:
            await self.write(response)


@dataclass(slots=True)
class Pump:
    """Sends what there is of one job and what comes, until its last word."""

    followed: Followed
    tail: Tail
    until_now: bool
    send: Send
    _told: int = 0
    _held_since: float = 0.0

    async def run(self) -> None:
        """Returns after the Fin, or with `until_now` after EndOfLog."""
        try:
            while not await self._round():
                pass
        finally:
            self.tail.close()

    async def _round(self) -> bool:
        """Sends what is there now; true if that was the last of it."""
        chronicle = self.followed.chronicle
        strokes = chronicle.bell.strokes
        opening, closing = split(chronicle.since(self._told))
        await self._tell(opening)
        if found := await self.tail.read():
            held = self.tail.holding
            await self._send_pieces(self.tail.due(found))
            self._held_since = self._held_since if held else time.monotonic()
            return False
        # What closes was read before the log's end was: nothing of the log comes after it.
        if closing or self.until_now or self._impatient():
            await self._send_pieces(self.tail.flush())
        await self._tell(closing)
        if closing and isinstance(closing[-1][1], Fin):
            return True
        if self.until_now:
            key = convert.key_to_wire(self.followed.key)
            await self.send(pb.AttachResponse(end_of_log=pb.EndOfLog(key=key)))
            return True
        await self._wait(chronicle, strokes)
        return False

    def _impatient(self) -> bool:
        return time.monotonic() - self._held_since >= PATIENCE_SECONDS

    async def _wait(self, chronicle: Chronicle, strokes: int) -> None:
        if not self.tail.holding:
            await chronicle.bell.later_than(strokes)
            return
        patience = self._held_since + PATIENCE_SECONDS - time.monotonic()
        await heard(chronicle.bell, strokes, patience)

    async def _tell(self, told: list[Numbered]) -> None:
        for number, each in told:
            await self.send(told_to_wire(each))
            self._told = number

    async def _send_pieces(self, pieces: Iterable[Piece]) -> None:
        key = convert.key_to_wire(self.followed.key)
        for piece in pieces:
            if isinstance(piece, Hole):
                reason = await asyncio.to_thread(gap_reason, self.followed.journal.parent)
                await self.send(hole_to_wire(key, piece, reason))
            else:
                await self.send(frame_to_wire(key, piece))


def _offsets(wire: pb.Follow | pb.Ack) -> tuple[int, int]:
    """How far a reader has come in the two streams of a job."""
    return (
        fields.count(wire.stdout_offset_bytes, "The offset"),
        fields.count(wire.stderr_offset_bytes, "The offset"),
    )


def split(told: list[Numbered]) -> tuple[list[Numbered], list[Numbered]]:
    """What may be said before the rest of the log, and what must wait for the log's end."""
    for index, (_, each) in enumerate(told):
        if isinstance(each, Fin) or (isinstance(each, StateChange) and each.state in CLOSING):
            return told[:index], told[index:]
    return told, []


async def heard(bell: Bell, strokes: int, seconds: float) -> None:
    """Returns when the bell rang, or after the time."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await bell.later_than(strokes)
    except TimeoutError:
        return


async def _packs(store: ChunkStore, wanted: list[Digest]) -> AsyncIterator[transfer_pb2.Pack]:
    packs = pack_chunks(store, wanted)
    while (pack := await asyncio.to_thread(next, packs, None)) is not None:
        yield pack


def told_to_wire(told: Told) -> pb.AttachResponse:
    match told:
        case StateChange():
            return pb.AttachResponse(state=convert.state_to_wire(told))
        case ArtifactSaved():
            return pb.AttachResponse(artifact=convert.artifact_to_wire(told))
        case Fin():
            return pb.AttachResponse(fin=convert.fin_to_wire(told))


def gap_reason(folder: Path) -> str:
    """Why bytes of a job's log are not there."""
    limit = record.noted_cut(str(folder))
    return CUT_REASON.format(limit) if limit else GAP_REASON


def hole_to_wire(key: job_pb2.JobKey, hole: Hole, reason: str) -> pb.AttachResponse:
    gap = pb.Gap(
        key=key,
        stream=STREAMS[hole.stream],
        from_bytes=hole.offset,
        to_bytes=hole.end,
        reason=reason,
    )
    return pb.AttachResponse(gap=gap)


def frame_to_wire(key: job_pb2.JobKey, piece: Frame) -> pb.AttachResponse:
    stream = STREAMS[piece.stream]
    frame = pb.LogFrame(key=key, stream=stream, offset_bytes=piece.offset, data=piece.data)
    frame.at.FromNanoseconds(piece.at_ns)
    return pb.AttachResponse(log=frame)


def stop_from_wire(wire: pb.StopRequest) -> tuple[RunId, int | None, bool, str]:
    """Run, job, abort and cause of a wish to stop."""
    job = wire.job if wire.HasField("job") else None
    cause = fields.text(wire.cause, "The cause", fields.PATH)
    return fields.run_id(wire.run_id), job, wire.abort, cause
