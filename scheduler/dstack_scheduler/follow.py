"""Follows a job at its agent through broken connections, restarts and changed addresses.

Silence is not death: a follower never gives up by itself. It says `Unheard` after a few seconds and
keeps trying, by the address that the directory knows by then.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import assert_never

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Broken, Busy, MeshError, TooLate, Unreachable
from dstack_mesh.frozen import frozen
from dstack_scheduler.agent_port import Agent, AttachEvent, Attachment, Directory
from dstack_scheduler.cursor import Cursor, Hole
from dstack_scheduler.job import (
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    JobKey,
    LogFrame,
    StateChange,
)
from dstack_scheduler.progress import Tell, Unheard

PATIENCE_SECONDS = 3.0
"""After so long without an answer the agent counts as unheard."""

SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

ACK_BYTES = 256 * 1024
"""An acknowledgement is sent at least every so many bytes."""

TRANSIENT = (Broken, Busy, TooLate, Unreachable)
"""Errors that say nothing about the job: whoever was called may answer the next time."""

LONGEST_WAIT_SECONDS = 60.0
"""Nobody who is busy keeps us away for longer."""

HOLE_TRIES = 3
"""So often a hole is read again before it becomes a gap."""


@frozen
class Start:
    """From where to read, and whether to stop at the end of what exists."""

    stdout_offset: int = 0
    stderr_offset: int = 0
    until_now: bool = False


FROM_THE_BEGINNING = Start()


def wanted_pause_seconds(error: MeshError) -> float:
    """How long whoever was called wants to be left alone."""
    return min(error.retry_seconds, LONGEST_WAIT_SECONDS) if isinstance(error, Busy) else 0.0


class Follower:
    """Follows one attempt and tells what it sees: every byte once, every state once.

    Args:
        key: Attempt 0 is the newest one that the agent knows.
        tell: Awaited for each event, in order.
        chance: Numbers from [0, 1), for jitter.
    """

    def __init__(
        self,
        key: JobKey,
        agent: Agent,
        directory: Directory,
        tell: Tell,
        chance: Callable[[], float],
        start: Start = FROM_THE_BEGINNING,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._agent = agent
        self._directory = directory
        self._tell = tell
        self._chance = chance
        self._until_now = start.until_now
        self._patience = patience_seconds
        self._cursor = Cursor(key, start.stdout_offset, start.stderr_offset)
        self._told: set[StateChange] = set()
        self._saved: dict[str, ArtifactSaved] = {}
        self._holes: Counter[tuple[str, int]] = Counter()
        self._acked = 0
        self._heard_at = time.monotonic()
        self._unheard = False
        self._failures = 0

    @property
    def agent(self) -> Agent:
        """The agent as it was reached last."""
        return self._agent

    async def run(self) -> Fin | EndOfLog:
        """Reads until the job ended, or with `until_now` until the end of what exists.

        Raises:
            Missing: The agent answers and knows no such job.
        """
        while True:
            least = 0.0
            try:
                last = await self._read()
            except TRANSIENT as error:
                last, least = None, wanted_pause_seconds(error)
            except TimeoutError:
                last = None
            except Hole as hole:
                last = None
                await self._met(hole)
            if last is not None:
                return last
            await self._pause(least)

    async def _read(self) -> Fin | EndOfLog | None:
        """Reads one connection to its end; None if it broke."""
        stdout, stderr = self._cursor.offsets
        async with self._agent.attach() as attachment:
            await attachment.follow(self._cursor.key, stdout, stderr, self._until_now)
            async with aclosing(attachment.events()) as events:
                # An agent answers a Follow at once with the job's state.
                async with asyncio.timeout(self._patience) as first:
                    async for event in events:
                        first.reschedule(None)
                        self._hear()
                        last = await self._take(event, attachment)
                        if last is not None:
                            return last
        return None

    async def _take(self, event: AttachEvent, attachment: Attachment) -> Fin | EndOfLog | None:
        if not self._cursor.concerns(event.key):
            return None
        match event:
            case LogFrame() | Gap():
                await self._read_on(event, attachment)
            case StateChange() if event not in self._told:
                self._told.add(event)
                await self._tell(event)
            case ArtifactSaved(path=path) if event != self._saved.get(path):
                self._saved[path] = event
                await self._tell(event)
            case StateChange() | ArtifactSaved():
                pass  # an agent says again what holds now whenever somebody comes back
            case Fin():
                for wrong in self._cursor.fin(event):
                    await self._tell(wrong)
                await self._tell(event)
                return event
            case EndOfLog():
                return event
            case _:
                assert_never(event)
        return None

    async def _read_on(self, event: LogFrame | Gap, attachment: Attachment) -> None:
        cursor = self._cursor
        new = cursor.frame(event) if isinstance(event, LogFrame) else cursor.gap(event)
        if new is not None:
            await self._tell(new)
            await self._ack(attachment)

    async def _ack(self, attachment: Attachment) -> None:
        stdout, stderr = self._cursor.offsets
        if stdout + stderr >= self._acked + ACK_BYTES:
            self._acked = stdout + stderr
            await attachment.ack(self._cursor.key, stdout, stderr)

    async def _met(self, hole: Hole) -> None:
        place = (hole.stream.value, hole.from_bytes)
        self._holes[place] += 1
        if self._holes[place] >= HOLE_TRIES:
            await self._tell(self._cursor.skip(hole))

    def _hear(self) -> None:
        self._heard_at = time.monotonic()
        self._unheard = False
        self._failures = 0

    async def _pause(self, least: float) -> None:
        """Waits before the next try, and finds the agent again."""
        if not self._unheard and time.monotonic() - self._heard_at >= self._patience:
            self._unheard = True
            await self._tell(Unheard(self._cursor.key.job, self._card))
        longest = min(LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 8)
        await asyncio.sleep(max(least, longest * (0.5 + self._chance() / 2)))
        found = await self._directory.find(self._card.peer_id)
        if found is not None:
            self._agent = found

    @property
    def _card(self) -> PeerCard:
        return self._agent.card
