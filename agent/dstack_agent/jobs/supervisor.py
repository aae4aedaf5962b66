"""Owns every attempt on this machine: takes new ones and old ones up, finds them for readers."""

import asyncio
import logging
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dstack_agent.bell import Bell
from dstack_agent.jobs.chronicle import Chronicle, Followed, Told
from dstack_agent.jobs.event import StopAsked
from dstack_agent.jobs.folders import KEEPING, Keeping, remove_work, sweep, was_launched
from dstack_agent.jobs.live import LiveAttempt
from dstack_agent.jobs.phase import Verdict
from dstack_agent.jobs.places import key_of
from dstack_agent.jobs.trouble import storage_trouble
from dstack_agent.jobs.workshop import Workshop
from dstack_agent.records import Accepted, Given
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.faults import Busy, Forbidden, Missing
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_mesh.machine import RunningJob
from dstack_scheduler.job import RECLAIMED, ArtifactSaved, JobKey, JobSpec, JobState

log = logging.getLogger(__name__)

AGAIN_SECONDS = 2.0
"""Before an attempt that broke is taken up again."""

MOST_TRIES = 3
"""So often an attempt is taken up that breaks for another reason than a full or broken disk."""

UNLEASED = Verdict(
    JobState.LOST, "not-leased", "The agent restarted, and the machine was not given to the job."
)
"""How a job ends whose award failed after it was written down."""


@dataclass(slots=True)
class Supervisor:
    """The attempts that have not ended, each in a task of its own. Use from one event loop.

    Attributes:
        keeping: What stays of jobs that ended.
        changes: Rings when an attempt begins or ends.
    """

    workshop: Workshop
    keeping: Keeping = KEEPING
    changes: Bell = field(default_factory=Bell)
    again_seconds: float = AGAIN_SECONDS
    _live: dict[JobKey, LiveAttempt] = field(default_factory=dict[JobKey, LiveAttempt])
    _group: asyncio.TaskGroup | None = None
    _recovered: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, ready: asyncio.Event) -> None:
        """Takes unfinished attempts up again, says `ready`, then lives them until cancelled.

        Jobs go on when this is cancelled: their shims own them.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._recover()
            self._recovered.set()
            ready.set()
            await asyncio.Event().wait()

    async def _recover(self) -> None:
        """Takes up what did not end."""
        unfinished = self.workshop.records.unfinished()
        known = self.workshop.records.keys()
        keys = {each.key for each in unfinished}
        leased = await asyncio.to_thread(self._end_stale_leases, keys, known)
        for accepted in unfinished:
            self._begin(self._taken_up(accepted, accepted.key in leased))

    def over(self) -> set[JobKey]:
        """Jobs that ended here and with which nothing is to be done any more."""
        return self.workshop.records.ended() - self._live.keys()

    async def sweep(self) -> None:
        """Removes folders of jobs that ended long ago, and the oldest if there is no room.

        Raises:
            OSError: Some stay.
        """
        now = self.workshop.clock.now().timestamp()
        await asyncio.to_thread(sweep, self.workshop.jobs, self.over(), self.keeping, now)

    def _end_stale_leases(self, unfinished: set[JobKey], known: set[JobKey]) -> set[JobKey]:
        """Gives back what jobs that are over, or never began, hold since the agent died.

        A commit whose job was never written down must not be remembered: repeated, it would answer
        that the job was taken, and it would never run.

        Returns:
            The unfinished jobs that have their lease.
        """
        ledger = self.workshop.ledger
        leases = ledger.leases()
        for lease in leases:
            if lease.key in unfinished:
                continue
            if lease.key in known:
                ledger.end(lease.key)
            else:
                ledger.withdraw(lease.key)
        return {lease.key for lease in leases} & unfinished

    async def accept(
        self,
        spec: JobSpec,
        gpu_uuids: tuple[str, ...],
        secrets: Mapping[str, str],
        given: Given | None = None,
    ) -> None:
        """Makes the job this agent's. Durable on return; the same job again changes nothing.

        Raises:
            Busy: The disk is full.
        """
        if spec.key in self._live:  # the award was repeated
            return
        given = given or Given()
        new = self._made(Accepted(spec, gpu_uuids, None, False, None, given), (), secrets)
        try:
            is_new = await self.workshop.records.accept(spec, gpu_uuids, given)
        except sqlite3.Error as error:
            if self._knows(spec.key):  # the award was repeated; the job has been ours since
                return
            raise Busy(
                "The agent cannot write the job down.", f"{error}.", code="disk-full"
            ) from error
        if is_new:  # nothing between here and its beginning may fail: it would have no lease
            self._begin(new)

    def _knows(self, key: JobKey) -> bool:
        try:
            return self.workshop.records.find(key).key == key
        except Missing:
            return False

    def _taken_up(self, accepted: Accepted, leased: bool) -> LiveAttempt:
        """The attempt of an earlier life of the agent.

        A job that never started and has no lease was refused: whoever gave it was told so. What a
        shim has goes on.
        """
        told: list[Told] = [*self.workshop.records.history(accepted.key)]
        told += self.workshop.records.artifacts(accepted.key)
        live = self._made(accepted, told, {})
        live.leased = leased or accepted.launching
        return live

    def _made(
        self, accepted: Accepted, told: Iterable[Told], secrets: Mapping[str, str]
    ) -> LiveAttempt:
        means = self.workshop.means(accepted)
        return LiveAttempt(accepted, Chronicle(told), means, secrets, order=accepted.order)

    def _begin(self, live: LiveAttempt) -> None:
        assert self._group is not None, "accept() before run()"
        self._live[live.accepted.key] = live
        self._group.create_task(self._live_out(live))
        self.changes.ring()

    async def _live_out(self, live: LiveAttempt) -> None:
        key = live.accepted.key
        try:
            tries = 0
            while (error := await self._lived(live)) is not None:
                tries += 1
                if tries >= MOST_TRIES and storage_trouble(error) is None:
                    await self._give_up(live)
                await asyncio.sleep(self.again_seconds)
                live = self._live[key] = self._renewed(live)
        finally:
            self._live.pop(key, None)
            self.changes.ring()
        await self._clean(live)

    async def _lived(self, live: LiveAttempt) -> Exception | None:
        """Lives an attempt to its end; or what broke, which must not take other attempts down."""
        folder = live.means.folder
        try:
            if live.accepted.fin is not None:
                await live.close(live.accepted.fin)
            elif not live.leased:
                await live.finish(UNLEASED)
            else:
                await live.run(live.accepted.launching and await was_launched(folder))
        except Exception as error:  # a bug of ours or a full disk
            refused = storage_trouble(error)
            if refused is None:
                log.exception("attempt %s broke and is taken up again", folder.name)
            else:
                log.warning("attempt %s waits for the disk: %s", folder.name, refused)
                live.held_up(f"The agent cannot write to its disk: {refused}. It tries again.")
            return error
        return None

    def _renewed(self, live: LiveAttempt) -> LiveAttempt:
        """The same attempt as a restarted agent would find it; readers notice nothing."""
        accepted = self.workshop.records.find(live.accepted.key)
        means = self.workshop.means(accepted)
        return LiveAttempt(
            accepted,
            live.chronicle,
            means,
            live.secrets,
            live.unsaved,
            live.leased,
            live.order,
        )

    async def _give_up(self, live: LiveAttempt) -> None:
        means = live.means
        if self.workshop.records.find(live.accepted.key).fin is not None:
            return  # it has ended, and there is one end; what follows it is tried for ever
        cause = f"The agent failed inside; its log says more under {means.folder.name}."
        verdict = Verdict(JobState.FAILED, "agent-failed", cause)
        try:
            live.unsaved = bool(live.accepted.spec.artifacts)
            await means.executor.stop(means.folder, True)
            await live.finish(verdict)
        except Exception:  # it is tried again; the agent and its other jobs go on
            log.exception("attempt %s could not be given up", means.folder.name)

    async def _clean(self, live: LiveAttempt) -> None:
        """Removes what a job worked in, unless that is the only copy of what it kept."""
        if not (self.keeping.work or live.unsaved):
            try:
                await asyncio.to_thread(remove_work, live.means.folder)
            except OSError as error:
                log.warning("%s is not tidied up: %s", live.means.folder, error)

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
        """Has the jobs of a run end, and writes it down; how many it concerns. Idempotent.

        Raises:
            Busy: They end, but the disk is full: a restarted agent may not know of it.
        """
        order = StopAsked(abort, cause)
        await self._recovered.wait()  # a job of before is not passed over
        concerned = [
            live
            for key, live in self._live.items()
            if key.run_id == run_id and job in (None, key.job)
        ]
        try:
            await self._order(concerned, order)
            await self.workshop.records.give_up(run_id, job)
        except sqlite3.Error as error:
            raise Busy(
                "The jobs are told to end, but the agent cannot write it down.",
                f"{error}.",
                "free some disk",
                "disk-full",
            ) from error
        return len(concerned)

    async def _order(self, concerned: Sequence[LiveAttempt], order: StopAsked) -> None:
        """Tells first: an end does not wait for a full disk, nor is it lost while one is tried."""
        for live in concerned:
            await live.tell(order)
        for live in concerned:
            await self.workshop.records.order_stop(live.accepted.key, order)

    async def reload(self, key: JobKey, code: Digest, peer: PeerId) -> Replaced:
        """Lays newer code into a job that runs, for the peer that gave it; "" is the owner.

        Raises:
            Missing: No such job runs here, or bytes of the code are not here.
            Forbidden: Somebody else gave it.
            Refused: It does not run now, or a file and a folder clash.
        """
        await self._recovered.wait()
        live = self._live.get(key)
        if live is None:
            what = f"Job {key.job}, attempt {key.attempt} of run {key.run_id}."
            raise Missing("This agent runs no such job.", what, code="no-such-job")
        given = live.accepted.given
        if given is None or given.behind or given.peer != peer:
            raise Forbidden(
                "This job is somebody else's.",
                "Its code follows the edits of whoever gave it to this agent, and of nobody else.",
                code="not-your-run",
            )
        return await live.reload(code)

    async def take_back(self, keys: Sequence[JobKey], cause: str, grace_seconds: float) -> int:
        """Asks jobs to save and go because the owner wants her machine; how many. Idempotent."""
        order = StopAsked(False, cause, RECLAIMED, grace_seconds)
        await self._recovered.wait()
        concerned = [live for key in keys if (live := self._live.get(key)) is not None]
        try:
            await self._order(concerned, order)
        except sqlite3.Error as error:  # the owner's wish does not wait for a full disk
            log.warning("jobs are asked to go; not written down: %s", error)
        return len(concerned)

    @contextmanager
    def connected(self, key: JobKey) -> Generator[None]:
        """Somebody uses what a job serves while the block runs: until then it is not idle."""
        live = self._live.get(key)
        idle = live.idleness if live is not None else None
        if idle is None:
            yield
            return
        idle.opened()
        try:
            yield
        finally:
            idle.closed(self.workshop.clock.elapsed())

    def note(self, key: JobKey, sentence: str) -> None:
        """Has people know something about a job before it starts."""
        if (live := self._live.get(key)) is not None:
            live.note(sentence)

    def noted(self, folder: Path, sentence: str) -> None:
        """Has people know what is going on before the job of a folder starts."""
        key = key_of(folder)
        if key is not None:
            self.note(key, sentence)

    def follow(self, key: JobKey) -> Followed:
        """What a reader of an attempt needs; attempt 0 is the newest. Raises Missing."""
        accepted = self.workshop.records.find(key)
        live = self._live.get(accepted.key)
        chronicle = live.chronicle if live else self._past(accepted)
        return Followed(accepted.key, chronicle, self.workshop.journal(accepted))

    def _past(self, accepted: Accepted) -> Chronicle:
        history = self.workshop.records.history(accepted.key)
        kept: list[ArtifactSaved] = self.workshop.records.artifacts(accepted.key)
        fin = [accepted.fin] if accepted.fin else []
        return Chronicle([*history[:-1], *kept, *history[-1:], *fin])

    def running(self) -> list[RunningJob]:
        """The attempts that have not ended."""
        return [
            RunningJob(live.accepted.spec.run_name, live.accepted.key.job, live.accepted.gpu_uuids)
            for live in self._live.values()
        ]
