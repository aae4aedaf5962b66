"""Drives runs that were handed over, as a command would, and remembers how far each has come.

A run has one driver at a time, the one with the highest epoch. After a restart of the agent every
run that is not over is driven on from what was written down; its jobs never noticed. One of which
that cannot be read is logged and left out.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Protocol

from dstack_agent.driven import DrivenRun, DrivenRuns
from dstack_mesh.faults import Busy, Invalid, MeshError
from dstack_mesh.ids import PeerId, RunId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.follow import TRANSIENT
from dstack_scheduler.job import (
    Fin,
    Input,
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    Source,
    StateChange,
    legible,
)
from dstack_scheduler.progress import (
    Awarded,
    Awarding,
    Declined,
    Grown,
    Progress,
    RunEnded,
    TriedAgain,
    Watcher,
)
from dstack_scheduler.submission import Submission

log = logging.getLogger(__name__)

AGAIN_SECONDS = 2.0
"""Before a run is driven on whose driving broke; doubled each time."""

LONGEST_SECONDS = 60.0

MOST_DRIVEN = 1_000
"""Runs that are driven here at a time; each follows its jobs over streams of its own."""

MOST_OF_ONE = 250
"""Of these, what one peer handed over: four that hand over all they have leave room for nobody."""


_ROOM = (
    "Run it without -d and stay attached, or wait until some runs ended: dstack ps\n"
    "dstack stop RUN   (one that is not needed)"
)


class RunDriver(Protocol):
    """What is asked of `dstack_scheduler.driver.Driver`."""

    async def run(self) -> StateChange:
        """Drives the run to its end. Raises MeshError if it cannot."""
        ...

    def stop(self, abort: bool, cause: str) -> None:
        """Has the run end."""
        ...


MakeDriver = Callable[[Submission, Watcher], RunDriver]


@dataclass(slots=True)
class Driving:
    """The runs that are driven here, each in a task of its own. Use from one event loop."""

    runs: DrivenRuns
    make: MakeDriver
    again_seconds: float = AGAIN_SECONDS
    most_of_one: int = MOST_OF_ONE
    _drives: dict[RunId, "Drive"] = field(default_factory=dict[RunId, "Drive"])
    _group: asyncio.TaskGroup | None = None

    @property
    def busy(self) -> bool:
        """Whether a run is driven."""
        return bool(self._drives)

    async def run(self) -> None:
        """Goes on with runs that are not over, and drives until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for run in self.runs.unfinished():
                try:
                    self._begin(run)
                except Exception:  # one that cannot be driven must not keep the agent from starting
                    log.exception("run %s cannot be driven", run.record.run_id)
            await asyncio.Event().wait()

    async def drive(
        self, record: RunRecord, jobs: tuple[DrivenJob, ...], epoch: int, behalf: Asker = OWNER
    ) -> None:
        """Takes a run over. Durable on return; the same hand-over again changes nothing.

        Args:
            record: The run.
            jobs: All its jobs.
            epoch: Of the new driver.
            behalf: Who hands it over: this machine takes its jobs as theirs, not as its owner's.

        Raises:
            Invalid: Its jobs do not fit together.
            Conflict: A higher epoch was seen.
            Busy: Too many runs are driven here, or too many of whoever hands this one over.
        """
        _check(record, jobs)
        if record.run_id not in self._drives:
            self._check_room(behalf)
        if await self.runs.take(record, jobs, epoch, behalf):
            earlier = self._drives.pop(record.run_id, None)
            if earlier is not None:
                earlier.give_way()
            found = self.runs.find(record.run_id) or DrivenRun(record, jobs, epoch, behalf)
            # The same values as were written: what changes is told from them by identity.
            self._begin(replace(found, record=record, jobs=jobs))

    def _check_room(self, behalf: Asker) -> None:
        """Raises Busy."""
        theirs = len(self.given_by((behalf.peer_id,))) if behalf.peer_id else 0
        if theirs >= self.most_of_one:
            why = f"At most {self.most_of_one} of one peer at a time."
            raise Busy("This agent drives enough runs of this peer.", why, _ROOM, "drives-enough")
        if len(self._drives) >= MOST_DRIVEN:
            why = f"At most {MOST_DRIVEN:,} at a time."
            raise Busy("This agent drives enough runs.", why, _ROOM, "drives-enough")

    def giver(self, run_id: RunId) -> PeerId | None:
        """The peer that handed a run over; None if it is not driven here."""
        drive = self._drives.get(run_id)
        return None if drive is None else drive.run.behalf.peer_id

    def given_by(self, peers: Collection[PeerId]) -> tuple[RunId, ...]:
        """The runs that are driven here and that these peers handed over."""
        return tuple(
            run_id for run_id, one in self._drives.items() if one.run.behalf.peer_id in peers
        )

    async def stop(self, run_id: RunId, abort: bool, cause: str) -> bool:
        """Writes down that a driven run shall end; whether it is driven here."""
        drive = self._drives.get(run_id)
        if drive is None:
            return False
        await self.runs.order_stop(run_id, abort, cause)
        drive.driver.stop(abort, cause)
        return True

    def _begin(self, run: DrivenRun) -> None:
        assert self._group is not None, "drive() before run()"
        drive = Drive(run, self.runs, self.make)
        self._drives[run.record.run_id] = drive
        drive.task = self._group.create_task(self._live(drive))

    async def _live(self, drive: "Drive") -> None:
        run_id = drive.run.record.run_id
        pause = self.again_seconds
        try:
            while not await self._lived(drive):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_SECONDS)
                self._drives[run_id] = drive = self._renewed(drive)
        finally:
            if self._drives.get(run_id) is drive:
                del self._drives[run_id]

    async def _lived(self, drive: "Drive") -> bool:
        """Drives a run to its end; false if that broke, which must not take other runs down."""
        try:
            await drive.live()
        except TRANSIENT as error:
            log.warning("run %s does not go on now: %s", drive.run.record.run_name, error)
            return False
        except Exception:  # a bug of ours or a full disk
            log.exception("run %s could not be driven", drive.run.record.run_id)
            return False
        return True

    def _renewed(self, drive: "Drive") -> "Drive":
        """The same run as a restarted agent would find it."""
        renewed = Drive(self.runs.find(drive.run.record.run_id) or drive.run, self.runs, self.make)
        renewed.task = drive.task
        return renewed


def _check(record: RunRecord, jobs: tuple[DrivenJob, ...]) -> None:
    """Raises Invalid. What is written down is driven at every start of the agent."""
    fits = all(
        (one.spec.key.run_id, one.spec.key.job) == (record.run_id, index)
        for index, one in enumerate(jobs)
    )
    fits = fits and _has_an_order(jobs)
    if not jobs or not fits:
        raise Invalid(
            "The jobs of a run that is handed over do not fit together.",
            f"{len(jobs)} jobs of {record.run_name}; each is of this run, and after earlier ones.",
            code="invalid-run",
        )


def _has_an_order(jobs: tuple[DrivenJob, ...]) -> bool:
    """Whether no job waits for itself; one that was made later may come before its elders."""
    open_ = {index: set(one.after) for index, one in enumerate(jobs)}
    if any(not 0 <= before < len(jobs) for one in jobs for before in one.after):
        return False
    while ready := [index for index, before in open_.items() if not before & open_.keys()]:
        for index in ready:
            del open_[index]
    return not open_


class Drive:
    """One run that is driven here. Also watches it: what happens is written down."""

    def __init__(self, run: DrivenRun, runs: DrivenRuns, make: MakeDriver) -> None:
        self.run = run
        self.task: asyncio.Task[None] | None = None
        self._runs = runs
        self.driver = make(
            Submission(run.record, run.jobs, epoch=run.epoch, behalf=run.behalf), self
        )

    async def live(self) -> None:
        """Returns when the run is over or cannot go on; raises if it may another time."""
        if self.run.stop_cause is not None:
            self.driver.stop(self.run.abort, self.run.stop_cause)
        try:
            await self.driver.run()
        except TRANSIENT:
            raise
        except MeshError as error:
            log.warning("run %s cannot go on: %s", self.run.record.run_name, error)
        self.run = replace(self.run, over=True)
        await self._runs.progress(self.run)

    def give_way(self) -> None:
        """Ends driving: another epoch took over."""
        if self.task is not None:
            self.task.cancel()

    async def saw(self, event: Progress) -> None:
        """Writes down what changes who has which job, and how it stands."""
        run = after(self.run, event)
        if run is not self.run:
            self.run = run
            await self._runs.progress(run)


def after(run: DrivenRun, event: Progress) -> DrivenRun:
    """The run as it must be driven on if the agent died now."""
    match event:
        case Awarding(job, attempt, card):
            # Whoever drives on asks this agent first whether it has the job.
            return _at(run, job, attempt + 1, Source(card.peer_id, card.addresses))
        case Declined(job, attempt):
            return _at(run, job, attempt, None)
        case Awarded(job, attempt, card):
            told = _told(run, job)
            if told.key.attempt != attempt:  # nothing was told of this one yet
                told = _submitted(run, job, attempt)
            placed = replace(told, agent_id=card.peer_id, agent_name=card.name)
            placed = replace(placed, gpu_uuids=event.gpu_uuids)
            source = Source(card.peer_id, card.addresses)
            return _with(_at(run, job, attempt + 1, source), placed)
        case TriedAgain(job, attempt, because, resumes):
            return _again(run, JobKey(because.key.run_id, job, attempt), because, resumes)
        case StateChange(key):
            return _with(run, replace(_told(run, key.job), key=key, state=event))
        case Fin(key):
            told = replace(_told(run, key.job), key=key, state=event.state)
            return _with(run, replace(told, artifacts=event.artifacts))
        case Grown(_, jobs):
            return _grown(run, jobs)
        case RunEnded(_, state):
            # A job that never got an agent has no other last word.
            told = _told(run, state.key.job)
            return run if told.state.state.ended else _with(run, replace(told, state=state))
        case _:
            return run


def _again(
    run: DrivenRun, key: JobKey, because: StateChange, resumes: tuple[Input, ...]
) -> DrivenRun:
    placeless = _at(run, key.job, key.attempt, None)
    job = replace(placeless.jobs[key.job], resumes=resumes)
    jobs = (*placeless.jobs[: key.job], job, *placeless.jobs[key.job + 1 :])
    told = _submitted(run, key.job, key.attempt)
    cause = f"Attempt {because.key.attempt} {because.state.value}. {because.cause}".strip()
    waiting = StateChange(key, JobState.WAITING, because.at, cause, "tried-again")
    return _with(replace(placeless, jobs=jobs), replace(told, state=legible(waiting)))


def _grown(run: DrivenRun, jobs: tuple[DrivenJob, ...]) -> DrivenRun:
    """The run with jobs that one of it made; what was told of the others stays."""
    old = zip(run.jobs, jobs, strict=False)
    known = tuple(
        replace(job, after=now.after, spec=replace(job.spec, makes=now.spec.makes))
        for job, now in old
    )
    making = sum(bool(job.spec.makes) for job in jobs)
    record = replace(run.record, job_count=len(jobs) + making)
    return replace(run, record=record, jobs=(*known, *jobs[len(run.jobs) :]))


def _told(run: DrivenRun, job: int) -> JobRecord:
    """What was told of a job so far."""
    for told in run.record.jobs:
        if told.key.job == job:
            return told
    return _submitted(run, job, run.jobs[job].spec.key.attempt)


def _submitted(run: DrivenRun, job: int, attempt: int) -> JobRecord:
    """An attempt of which nothing was told; the specification's own number may be the next one."""
    spec = run.jobs[job].spec
    key = replace(spec.key, attempt=attempt)
    submitted = StateChange(key, JobState.SUBMITTED, spec.submitted_at)
    return JobRecord(key, spec.workflow, spec.provider, submitted, apps=spec.app_names)


def _with(run: DrivenRun, told: JobRecord) -> DrivenRun:
    others = [each for each in run.record.jobs if each.key.job != told.key.job]
    jobs = tuple(sorted([*others, told], key=lambda each: each.key.job))
    return replace(run, record=replace(run.record, jobs=jobs))


def _at(run: DrivenRun, index: int, attempt: int, agent: Source | None) -> DrivenRun:
    """The run with a job at an agent, or at none; `attempt` is the one to make next."""
    job = run.jobs[index]
    spec = replace(job.spec, key=replace(job.spec.key, attempt=attempt))
    changed = replace(job, spec=spec, awarded=agent)
    return replace(run, jobs=(*run.jobs[:index], changed, *run.jobs[index + 1 :]))
