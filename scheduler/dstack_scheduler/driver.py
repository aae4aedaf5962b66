"""Carries a run out: the only place where the decisions of `run` and `auction` become calls.

The same driver works in a command that stays attached and in an agent that took a run over. What
an agent has it keeps, with or without a driver.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Missing, Refused
from dstack_scheduler import run as decisions
from dstack_scheduler.agent_port import Agent, Directory
from dstack_scheduler.auction import is_superseded
from dstack_scheduler.award import Carrier, Trees, release
from dstack_scheduler.awarding import Means, confirmed
from dstack_scheduler.follow import TRANSIENT, Follower, wanted_pause_seconds
from dstack_scheduler.foresight import refuse_hopeless
from dstack_scheduler.inputs import Elsewhere, with_inputs
from dstack_scheduler.job import Fin, JobKey, JobState, StateChange
from dstack_scheduler.keep import KEEP_BYTES, KEEP_SECONDS, keep
from dstack_scheduler.parts import is_given_up, part_of
from dstack_scheduler.placing import Outcome, Placing
from dstack_scheduler.progress import Grown, Progress, RunEnded, TriedAgain, Unheard, Watcher
from dstack_scheduler.queues import Queues
from dstack_scheduler.refusal import gang_broken
from dstack_scheduler.run import Run
from dstack_scheduler.submission import HandOver, Submission
from dstack_scheduler.track import Place, Track
from dstack_scheduler.vouching import bring

if TYPE_CHECKING:
    from dstack_scheduler.gang_placing import GangPlacing

PAUSES_SECONDS = (0.1, 0.2, 0.5, 1.0)
"""Between tries of a call that must be heard; the last one repeats."""

DETACH_SECONDS = 1.0
"""So long an award that is under way may still be confirmed while the driver leaves."""


class Driver:
    """Drives one run.

    Args:
        directory: Which agents there are.
        store: This machine's chunk store, which the agent of this home shares.
        watcher: Told of everything, one event at a time.
        random: Numbers from [0, 1), for jitter.
        keep_bytes_limit: Up to this size a job's artifacts are brought to this machine's store, so
            that there is a second copy; 0 brings none.
        elsewhere: Where else than at agents inputs are looked up.
    """

    def __init__(
        self,
        submission: Submission,
        directory: Directory,
        store: Trees,
        watcher: Watcher,
        clock: Clock,
        random: Callable[[], float],
        keep_bytes_limit: int = KEEP_BYTES,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._submission = submission
        self._directory = directory
        self._elsewhere = elsewhere
        self._watcher = watcher
        self._clock = clock
        self._random = random
        self._store = store
        self._keep_bytes_limit = keep_bytes_limit
        self._track = Track(submission)
        carrier = Carrier(directory, store, self._tell)
        shared = submission, directory, carrier, self._track, self._tell, clock, random
        self._means = Means(*shared, Queues())
        self._run = Run([part_of(job, submission.secrets) for job in submission.jobs])
        self._telling = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._placings: dict[int, Placing | GangPlacing] = {}
        self._before: dict[int, Place] = {}
        self._last_words: set[asyncio.Task[None]] = set()
        self._errors: dict[int, MeshError] = {}
        self._stop: decisions.StopAsked | None = None
        self._leaving = False
        self._over = asyncio.Event()
        self._result: StateChange | MeshError | None = None

    async def run(self) -> StateChange:
        """Drives to the end, and returns how the job that decided the run ended.

        After `detach` it returns the newest state of the requested job.

        Raises:
            MeshError: An input does not exist, no agent takes a job, or another driver took over.
        """
        self._track.jobs = await with_inputs(self._submission, self._directory, self._elsewhere)
        await refuse_hopeless(self._track.jobs, self._directory)
        async with asyncio.TaskGroup() as self._tasks:
            self._do(self._run.start())
            for job in self._track.incomplete():
                self._happened(decisions.Unplaced(job, gang_broken(), self._clock.now()))
            if self._stop is not None:
                self._happened(self._stop)
            await self._over.wait()
            for task in self._running:
                task.cancel()
        if isinstance(self._result, MeshError):
            raise self._result
        return self._result or self._track.latest(self._last_key)

    def stop(self, abort: bool, cause: str = "") -> None:
        """Asks for the end of the whole run; `run` returns once all jobs ended."""
        self._stop = decisions.StopAsked(abort, cause, self._clock.now())
        if self._tasks is not None:
            self._happened(self._stop)

    async def detach(self) -> HandOver | None:
        """Stops driving. What agents have goes on; `run` returns at once.

        Returns:
            What remains to be driven; None if every job has its agent.

        Raises:
            Refused: The run's inputs are not known yet, so nobody could take it over.
        """
        if self._tasks is None:
            raise Refused(
                "The run cannot be handed over yet.",
                "Its inputs are still being looked up.",
                code="not-accepted",
            )
        self._leaving = True
        placings = set(self._placings.values())
        for placing in placings:
            placing.stop()
        async with asyncio.TaskGroup() as settling:
            for placing in placings:
                settling.create_task(placing.settle(DETACH_SECONDS))
        self._over.set()
        remains = not self._run.stopping and self._track.remains(self._unplaced())
        return self.hand_over() if remains else None

    def hand_over(self) -> HandOver:
        """The run as it is now, for another driver or for this one after a restart."""
        return self._track.hand_over(self._unplaced())

    def _unplaced(self) -> dict[int, JobKey]:
        """The next attempts of jobs that no agent has, as far as is known."""
        unplaced = (job for job in self._run.unplaced() if self._track.place(job) is None)
        return {job: self._run.key(job) for job in unplaced}

    @property
    def _last_key(self) -> JobKey:
        return self._run.key(len(self._track.jobs) - 1)

    async def _tell(self, event: Progress) -> None:
        async with self._telling:
            await self._watcher.saw(event)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _happened(self, event: decisions.Event) -> None:
        # A driver that leaves stops searches; that is no end of the run.
        if not (self._leaving or self._over.is_set()):
            self._do(self._run.handle(event))

    def _do(self, effects: Iterable[decisions.Effect]) -> None:
        for effect in effects:
            match effect:
                case decisions.Place():
                    self._begin_placing(effect)
                case decisions.PlaceGang(keys):
                    assert self._tasks is not None
                    from dstack_scheduler.gang_placing import GangPlacing  # most runs have none

                    gang = GangPlacing(keys, self._means, self._tasks)
                    self._placings.update((key.job, gang) for key in keys)
                    self._spawn(self._place_gang(gang, keys))
                case decisions.Follow(key):
                    self._spawn(self._follow(key))
                case decisions.StopPlacing(job):
                    if (placing := self._placings.get(job)) is not None:
                        placing.stop()
                case decisions.StopJob(key, abort, cause, patience):
                    self._spawn(self._stop_job(key, abort, cause, patience))
                case decisions.End(state):
                    self._spawn(self._end(state))
                case _:
                    assert_never(effect)

    def _begin_placing(self, place: decisions.Place) -> None:
        assert self._tasks is not None
        key, because = place.key, place.because
        if because is not None and (before := self._track.again(key, because)) is not None:
            self._before[key.job] = before
        rest = place.rest_seconds * (0.5 + self._random() / 2)
        placing = self._placings[key.job] = Placing(key, self._means, self._tasks, rest)
        self._spawn(self._place(key, placing, because))

    async def _say_final(self, key: JobKey, before: Place) -> None:
        """Tells the agent of the attempt before that it was the last: it tells others until it
        hears so that the job is to be tried again."""
        with suppress(MeshError):
            agent = before.agent or await self._directory.find(before.source.peer_id)
            if agent is not None:
                await agent.stop(key.run_id, key.job, False, "It is not tried again.")

    def _fail(self, error: MeshError) -> None:
        """Ends the driving, not the jobs."""
        self._result = error
        self._over.set()

    async def _end(self, state: StateChange) -> None:
        if self._last_words:
            await asyncio.wait(self._last_words, timeout=KEEP_SECONDS)
        await self._tell(RunEnded(self._submission.record.run_name, state))
        self._result = self._errors.get(state.key.job, state)
        self._over.set()

    async def _place(self, key: JobKey, placing: Placing, because: StateChange | None) -> None:
        if because is not None:
            resumes = self._track.jobs[key.job].resumes
            await self._tell(TriedAgain(key.job, key.attempt, because, resumes))
        try:
            outcome = await placing.run()
        finally:
            del self._placings[key.job]
        self._was_placed(key, outcome)
        if key.job in self._placings or self._leaving or isinstance(self._result, MeshError):
            return
        before = self._before.pop(key.job, None)
        if before is not None and outcome is not Outcome.PLACED:
            self._last_words.add(self._spawn(self._say_final(key, before)))

    async def _place_gang(self, gang: "GangPlacing", keys: Iterable[JobKey]) -> None:
        try:
            outcomes = await gang.run()
        finally:
            for key in keys:
                del self._placings[key.job]
        # Those that have an agent first: what fails then stops them.
        for key in sorted(outcomes, key=lambda key: outcomes[key] is not Outcome.PLACED):
            self._was_placed(key, outcomes[key])

    def _was_placed(self, key: JobKey, outcome: Outcome | MeshError) -> None:
        job = key.job
        self._errors.pop(job, None)
        match outcome:
            case Outcome.PLACED:
                self._happened(decisions.Placed(key))
            case Outcome.STOPPED:
                self._happened(decisions.Unplaced(job, None, self._clock.now()))
            case MeshError() as error if is_superseded(error):
                self._fail(error)
            case MeshError() as error:
                self._errors[job] = error
                self._happened(decisions.Unplaced(job, error, self._clock.now()))

    async def _follow(self, key: JobKey) -> None:
        try:
            fin = await self._last_word(key)
        except MeshError as error:
            self._fail(error)
            return
        if fin is not None:
            if fin.state.state is JobState.DONE and self._track.jobs[key.job].spec.makes:
                await self._grow(key)
            self._give_up_where_secrets_lack(key, fin.state)
            self._happened(decisions.Changed(fin.state))
            return
        place = self._track.place(key.job)
        in_gang = self._track.jobs[key.job].spec.node is not None
        if in_gang or (place is not None and place.won is not None and place.confirmed):
            lost = StateChange(
                key,
                JobState.LOST,
                self._clock.now(),
                "The agent does not know it any more.",
                "lost",
            )
            await self._tell(lost)
            self._happened(decisions.Changed(lost))
            return
        self._track.remove(key.job)
        self._happened(decisions.Vanished(key))

    def _give_up_where_secrets_lack(self, key: JobKey, end: StateChange) -> None:
        spec, place = self._track.jobs[key.job].spec, self._track.place(key.job)
        if place is not None and is_given_up(spec, end, self._submission.secrets):
            self._last_words.add(self._spawn(self._say_final(key, place)))

    async def _grow(self, key: JobKey) -> None:
        """Takes the jobs into the run that one of it made."""
        from dstack_scheduler.making import grown_by  # the language: few runs need it here

        jobs = await grown_by(
            key, self._track, self._store, self._directory.find, self._pause_while_wanted
        )
        if jobs is None:
            return
        await self._tell(Grown(key.job, jobs))
        self._track.jobs = jobs
        parts = (part_of(job, self._submission.secrets) for job in jobs)
        self._happened(decisions.Grown(tuple(parts)))

    async def _pause_while_wanted(self, tries: int, least: float) -> bool:
        """Whether the run goes on after a pause."""
        if not self._run.stopping:
            await self._pause(tries, least)
        return not self._run.stopping

    async def _last_word(self, key: JobKey) -> Fin | None:
        """How the attempt ended; None if its agent answers and does not know it."""
        agent = await self._agent_of(key)
        if (signed := self._track.jobs[key.job].signed) is not None:
            self._spawn(bring(signed, key, partial(self._directory.find, agent.card.peer_id)))
        try:
            return await self._followed(key, agent)
        except Missing:
            place = self._track.place(key.job)
            if place is None or place.won is None or place.confirmed:
                return None
        # Once the hold is given back, no award that is still on its way can succeed.
        await release(place.won.agent, place.won.hold)
        try:
            return await self._followed(key, agent)
        except Missing:
            return None

    async def _followed(self, key: JobKey, agent: Agent) -> Fin | None:
        follower = Follower(key, agent, self._directory, partial(self._saw, key), self._random)
        last = await follower.run()
        if not isinstance(last, Fin):
            return None
        self._track.ended(last, follower.agent)
        self._last_words.add(self._spawn(self._keep(follower.agent, last)))
        return last

    async def _saw(self, key: JobKey, event: Progress) -> None:
        if not isinstance(event, Unheard):
            await confirmed(self._means, key)
        if isinstance(event, StateChange):
            self._track.saw(event)
        await self._tell(event)

    async def _keep(self, agent: Agent, fin: Fin) -> None:
        kept = await keep(agent, fin, self._store, self._keep_bytes_limit)
        if kept is not None:
            await self._tell(kept)

    async def _agent_of(self, key: JobKey) -> Agent:
        """The agent that has the job, once it is found."""
        place = self._track.place(key.job)
        if place is None:
            raise Missing("The job has no agent.", f"It is job {key.job} of {key.run_id}.")
        if place.agent is not None:
            return place.agent
        tries = 0
        while (agent := await self._directory.find(place.source.peer_id)) is None:
            await self._pause(tries)
            tries += 1
        self._track.put(key.job, replace(place, agent=agent))
        return agent

    async def _stop_job(self, key: JobKey, abort: bool, cause: str, patience: float) -> None:
        await asyncio.sleep(patience)
        agent = await self._agent_of(key)
        tries = 0
        while True:
            try:
                await agent.stop(key.run_id, key.job, abort, cause)
                return
            except TRANSIENT as error:
                await self._pause(tries, wanted_pause_seconds(error))
                tries += 1
                agent = await self._directory.find(agent.card.peer_id) or agent
            except Missing:
                return
            except MeshError as error:
                self._fail(error)
                return

    async def _pause(self, tries: int, least: float = 0.0) -> None:
        longest = PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS) - 1)]
        await asyncio.sleep(max(least, longest * (0.5 + self._random() / 2)))
