"""Lives one attempt: carries out what the core decides, and tells it what happened."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from dstack_agent.artifacts.saving import Saver
from dstack_agent.executor.port import Executor
from dstack_agent.executor.port import Launch as LaunchOrder
from dstack_agent.executor.starting import unprepared
from dstack_agent.jobs.attempt import Attempt, step, together
from dstack_agent.jobs.caching import Caching
from dstack_agent.jobs.chronicle import Chronicle
from dstack_agent.jobs.effect import (
    Attend,
    Drop,
    Effect,
    EndCommands,
    Enter,
    Finish,
    Forget,
    Launch,
    Prepare,
    Save,
)
from dstack_agent.jobs.event import (
    CommandsEnded,
    Event,
    Launched,
    Noted,
    NotLaunched,
    NotPrepared,
    NotSaved,
    Prepared,
    Reloaded,
    Saved,
    StopAsked,
)
from dstack_agent.jobs.idleness import IDLE, Idleness
from dstack_agent.jobs.phase import Over, Verdict
from dstack_agent.jobs.preparing import Note, Preparation, reason_of
from dstack_agent.jobs.resume import resume
from dstack_agent.logs.journal import JournalReader
from dstack_agent.logs.wake import Wake
from dstack_agent.records import Accepted, Records
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest
from dstack_scheduler.job import (
    NOTHING,
    RELOADED,
    ArtifactSaved,
    Fin,
    JobState,
    StateChange,
    legible,
)
from dstack_scheduler.objections import duration

log = logging.getLogger(__name__)

HELD_UP = "held-up"
"""The reason of a state that is told again because it does not go on."""

ORDERED = frozenset({JobState.STOPPING, JobState.ABORTING})
"""States that do not wait for the disk."""

UNASKED_SECONDS = 0.5
"""How late output is seen at most whose poke was lost."""


@frozen
class Means:
    """What an attempt is lived with.

    Attributes:
        order: Makes the launch order: environment and cards. Raises MeshError.
        journal: Where the shim writes the log.
        end_lease: Gives the machine's resources back; idempotent.
        reuse_key: What its result may stand in for once it is done; reads disk.
        reload: Lays newer code; reads and writes disk. Raises MeshError.
    """

    folder: Path
    journal: Path
    executor: Executor
    preparation: Callable[[Note, Mapping[str, str]], Preparation]
    saver: Saver
    caching: Caching
    order: Callable[[Mapping[str, str]], Awaitable[LaunchOrder]]
    end_lease: Callable[[], Awaitable[None]]
    reuse_key: Callable[[], Digest]
    reload: Callable[[Digest], Replaced]
    wake: Wake
    records: Records
    clock: Clock


@dataclass(slots=True)
class LiveAttempt:
    """An attempt that has not ended. `run` returns when it has.

    Attributes:
        unsaved: Whether its artifacts could not be saved: they are in its work folder alone.
        leased: Whether the machine was given to it, as far as is known.
        order: What was asked for, whether or not it could be written down.
        idleness: How long nobody has used it; None where that does not matter.
    """

    accepted: Accepted
    chronicle: Chronicle
    means: Means
    secrets: Mapping[str, str]
    unsaved: bool = False
    leased: bool = True
    order: StopAsked | None = None
    idleness: Idleness | None = None
    _told_of_edits: bool = False
    # Each producer waits for room: what waits here is a handful of facts of one attempt.
    _events: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue[Event](64))
    _doing: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def tell(self, event: Event) -> None:
        """Lets the attempt know that something happened."""
        if isinstance(event, StopAsked):
            self.order = together(self.order, event)
        await self._events.put(event)

    def note(self, sentence: str) -> None:
        """The same for something that may be left out when much else is waiting."""
        if not self._events.full():
            self._events.put_nowait(Noted(sentence))

    def held_up(self, cause: str) -> None:
        """Has readers know why it does not go on. Nothing is written down: that is the trouble."""
        states = self.chronicle.states()
        if states and not states[-1].state.ended and states[-1].cause != cause:
            self.chronicle.tell(self._change(states[-1].state, cause, HELD_UP, None))

    async def reload(self, code: Digest) -> Replaced:
        """Lays newer code into the work directory of the job while it runs.

        Raises:
            Refused: It does not run now.
            MeshError: The code cannot be laid.
        """
        states = self.chronicle.states()
        if not states or states[-1].state is not JobState.RUNNING:
            raise Refused(
                "The job does not run now.",
                f"It is {states[-1].state.value}." if states else "",
                "What is edited is laid while it runs.",
                "job-not-running",
            )
        done = await asyncio.to_thread(self.means.reload, code)
        if not self._told_of_edits and all(state.reason != RELOADED for state in states):
            self._told_of_edits = True
            await self.tell(Reloaded())
        return done

    async def run(self, launched: bool) -> None:
        """Lives the attempt from where it stands to its end.

        Args:
            launched: Whether a shim has, or had, the job.
        """
        attempt, effects = resume(self.chronicle.states(), self.order, launched)
        async with asyncio.TaskGroup() as group:
            await self._carry_out(effects, group)
            while not isinstance(attempt.phase, Over):
                attempt = await self._next(attempt, group)
            self._drop()

    async def _next(self, attempt: Attempt, group: asyncio.TaskGroup) -> Attempt:
        event = await self._events.get()
        attempt, effects = step(attempt, event)
        await self._carry_out(effects, group)
        return attempt

    async def _carry_out(self, effects: tuple[Effect, ...], group: asyncio.TaskGroup) -> None:
        for effect in effects:
            match effect:
                case Enter():
                    await self._enter(effect)
                case Forget():
                    await self.means.records.forget_artifacts(self.accepted.key)
                case Finish(verdict):
                    await self.finish(verdict)
                case Drop():
                    self._drop()
                case _:
                    for work in self._works(effect):
                        self._do(group, work)

    def _works(
        self, effect: Prepare | Launch | Attend | EndCommands | Save
    ) -> list[Coroutine[None, None, None]]:
        """What an effect begins that takes its time."""
        match effect:
            case Prepare():
                return [self._prepare()]
            case Launch():
                return [self._launch()]
            case Attend():
                return [self._await_end(), self._watch(), self._hear(), self._leave_when_idle()]
            case EndCommands():
                return [self._end_commands(effect)]
            case Save(complete):
                return [self._save(complete)]
        assert_never(effect)

    def _do(self, group: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = group.create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    def _drop(self) -> None:
        # Each once: a second time would take from it the time to leave things as they should be.
        while self._doing:
            self._doing.pop().cancel()

    async def _enter(self, effect: Enter) -> None:
        change = self._change(effect.state, effect.cause, effect.reason, effect.exit_code)
        if not (change.state is JobState.PREPARING and change.cause):
            await self._write_down(change)
        self.chronicle.tell(change)

    async def _write_down(self, change: StateChange) -> None:
        try:
            await self.means.records.enter(change)
        except sqlite3.Error as error:
            if change.state not in ORDERED:
                raise
            # A job that filled the disk must end all the same.
            log.warning("%s is %s; not written down: %s", change.key, change.state.value, error)

    def _change(
        self, state: JobState, cause: str, reason: str, exit_code: int | None
    ) -> StateChange:
        now = self.means.clock.now()
        key = self.accepted.key
        return legible(StateChange(key, state, now, cause, reason, exit_code))

    async def _prepare(self) -> None:
        async def note(cause: str) -> None:
            await self.tell(Noted(cause))

        try:
            await self.means.preparation(note, self.secrets).run()
        except MeshError as error:
            await self.tell(NotPrepared(*reason_of(error)))
        else:
            await self.tell(Prepared())

    async def _launch(self) -> None:
        try:
            order = await self._order()
            await self.means.records.launching(self.accepted.key)
            await self.means.executor.launch(order)
        except MeshError as error:
            await self.tell(NotLaunched(*reason_of(error)))
        else:
            self.secrets = {}
            await self.tell(Launched())

    async def _order(self) -> LaunchOrder:
        try:
            return await self.means.order(self.secrets)
        except OSError as error:
            raise unprepared(error) from error

    async def _await_end(self) -> None:
        ended = await self.means.executor.wait(self.means.folder)
        await self.tell(CommandsEnded(ended))

    async def _hear(self) -> None:
        """Rings for readers when the shim wrote; now and then unasked, for pokes may be lost."""
        with self.means.wake.following(self.means.folder.name) as poked:
            while True:
                await first_of(poked, UNASKED_SECONDS)
                poked.clear()
                self.chronicle.bell.ring()

    async def _watch(self) -> None:
        async for artifact in self.means.saver.changes():
            await self.means.records.save_artifact(artifact)
            self.chronicle.tell(artifact)

    async def _leave_when_idle(self) -> None:
        """Asks for a stop once nobody has been connected for as long as the job allows."""
        limit = self.accepted.spec.idle_timeout_seconds
        if limit is None:
            return
        clock = self.means.clock
        idle = self.idleness = Idleness(limit, clock.elapsed())
        while True:
            left = idle.left(clock.elapsed())
            if left == 0:
                break
            await asyncio.sleep(UNASKED_SECONDS if left is None else left)
        cause = f"Nobody was connected to it for {duration(limit)}."
        order = StopAsked(False, cause, IDLE)
        await self.tell(order)
        await self.means.records.order_stop(self.accepted.key, order)

    async def _end_commands(self, order: EndCommands) -> None:
        await self._tell_shim(order.abort)
        if order.grace_seconds is not None and not order.abort:
            # Dropped when the commands end within it; what they saved is kept in either case.
            await asyncio.sleep(order.grace_seconds)
            await self._tell_shim(True)

    async def _tell_shim(self, at_once: bool) -> None:
        try:
            await self.means.executor.stop(self.means.folder, at_once)
        except MeshError as error:
            # The shim ends by itself or is gone; waiting for it says which.
            log.warning("job %s: %s", self.means.folder.name, error)

    async def _save(self, complete: bool) -> None:
        try:
            artifacts, warning = await self.means.saver.last(complete)
        except MeshError as error:
            self.unsaved = True
            await self.tell(NotSaved(*reason_of(error)))
        except OSError as error:
            self.unsaved = True
            await self.tell(NotSaved("not-saved", f"The artifacts cannot be read: {error}."))
        else:
            await self.means.records.save_artifacts(artifacts)
            for artifact in artifacts:
                self.chronicle.tell(artifact)
            if complete:
                await self.means.caching.keep()
            await self.tell(Saved(warning))

    async def finish(self, verdict: Verdict) -> None:
        """Writes the last word down, then closes."""
        change = self._change(verdict.state, verdict.cause, verdict.reason, verdict.exit_code)
        kept = tuple(self.means.records.artifacts(self.accepted.key))
        fin = await asyncio.to_thread(last_word, self.means.journal, change, kept)
        await self.means.records.finish(fin, await self._reuse_key(verdict))
        await self.close(fin)

    async def _reuse_key(self, verdict: Verdict) -> Digest:
        if verdict.state is not JobState.DONE:
            return NOTHING
        try:
            return await asyncio.to_thread(self.means.reuse_key)
        except MeshError as error:  # then it stands in for nothing
            log.warning("job %s will not be reused: %s", self.means.folder.name, error)
            return NOTHING

    async def close(self, fin: Fin) -> None:
        """Frees the machine and tells the last word, which is written down."""
        await self.means.end_lease()
        self.chronicle.tell(fin.state)
        self.chronicle.tell(fin)


async def first_of(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after the time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def last_word(journal: Path, change: StateChange, kept: tuple[ArtifactSaved, ...]) -> Fin:
    """The last word on an attempt whose log is complete. Reads the whole log."""
    reader = JournalReader(journal)
    try:
        stdout_bytes, stderr_bytes = reader.lengths()
        stdout_digest, stderr_digest = reader.digests()
    finally:
        reader.close()
    return Fin(
        key=change.key,
        state=change,
        stdout_bytes=stdout_bytes,
        stdout_digest=stdout_digest,
        stderr_bytes=stderr_bytes,
        stderr_digest=stderr_digest,
        artifacts=kept,
    )
