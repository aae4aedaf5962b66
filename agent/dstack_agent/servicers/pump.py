"""One job on its way to one reader: its states, its log, and what came after the log's end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dstack_agent.bell import Bell
from dstack_agent.executor import record
from dstack_agent.jobs.chronicle import Chronicle, Followed, Told
from dstack_agent.jobs.tail import PATIENCE_SECONDS, Piece, Tail
from dstack_agent.logs.journal import Frame, Hole
from dstack_mesh.v1 import job_pb2
from dstack_mesh.v1 import run_pb2 as pb
from dstack_scheduler.job import ArtifactSaved, Fin, JobState, LogStream, StateChange
from dstack_scheduler.wire import convert

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


class Left(Enum):
    """What there is to send after a round."""

    MORE = "more of the log may be there already"
    LATER = "all there is was sent"
    NOTHING = "that was the last of it"


@dataclass(slots=True)
class Pump:
    """Sends what there is of one job and what comes, until its last word.

    Reads only while it has the stream's `turn`: however many jobs a stream follows, and however
    slowly it is read, it holds what one read gave.
    """

    followed: Followed
    tail: Tail
    until_now: bool
    send: Send
    turn: asyncio.Lock
    _told: int = 0
    _held_since: float = 0.0

    async def run(self) -> None:
        """Returns after the Fin, or with `until_now` after EndOfLog."""
        chronicle = self.followed.chronicle
        try:
            while True:
                strokes = chronicle.bell.strokes
                async with self.turn:
                    left = await self._round(chronicle)
                match left:
                    case Left.MORE:
                        continue
                    case Left.LATER:
                        await self._wait(chronicle, strokes)
                    case Left.NOTHING:
                        return
        finally:
            self.tail.close()

    async def _round(self, chronicle: Chronicle) -> Left:
        """Sends what is there now."""
        opening, closing = split(chronicle.since(self._told))
        await self._tell(opening)
        if found := await self.tail.read():
            held = self.tail.holding
            await self._send_pieces(self.tail.due(found))
            self._held_since = self._held_since if held else time.monotonic()
            return Left.MORE
        # What closes was read before the log's end was: nothing of the log comes after it.
        if closing or self.until_now or self._impatient():
            await self._send_pieces(self.tail.flush())
        await self._tell(closing)
        if closing and isinstance(closing[-1][1], Fin):
            return Left.NOTHING
        if self.until_now:
            key = convert.key_to_wire(self.followed.key)
            await self.send(pb.AttachResponse(end_of_log=pb.EndOfLog(key=key)))
            return Left.NOTHING
        return Left.LATER

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
