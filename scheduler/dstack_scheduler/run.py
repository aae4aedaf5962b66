"""A run as its driver sees it: what happened to its jobs goes in, what to do now comes out.

A job starts when everything it takes artifacts from is done. The first job that ends in any other
way, and is not tried again, decides the run: nothing further starts, and what still runs is
stopped, its artifacts kept, since nobody will read the result. Otherwise the jobs that no other job
needs decide: in most runs that is the requested one, the last.

The nodes of a gang start together. Node 0, the master, stands for all of them: whoever needs the
gang needs the master, and once it is done the others have `PATIENCE_SECONDS` to end by themselves.

A stop that arrives while a job is being placed takes effect wherever it can: before the award the
job never starts; after it the agent is told. In between nobody can know, so both are done.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_scheduler.again import (
    LONGEST_REST_SECONDS,
    event_of,
    is_searched_again,
    is_tried_again,
    rest_seconds,
)
from dstack_scheduler.job import JobKey, JobState, StateChange, legible
from dstack_scheduler.refusal import NoAgentFits, NoAgents
from dstack_scheduler.run_events import (
    Changed,
    Effect,
    End,
    Event,
    Follow,
    Grown,
    Part,
    Place,
    Placed,
    PlaceGang,
    StopAsked,
    StopJob,
    StopPlacing,
    Unplaced,
    Vanished,
)

PATIENCE_SECONDS = 30.0
"""How long the other nodes of a gang may go on once their master is done."""


@frozen
class _Blocked:
    pass


@frozen
class _Placing:
    pass


@frozen
class _There:
    pass


@frozen
class _Ended:
    change: StateChange


class Run:
    """Decides. The requested job is the last part."""

    def __init__(self, parts: Sequence[Part]) -> None:
        if not parts:
            raise ValueError("a run has at least one job")
        self._parts = list(parts)
        self._last = _last(parts)
        self._states: list[_Blocked | _Placing | _There | _Ended] = [_Blocked() for _ in parts]
        self._stop: StopAsked | None = None
        self._asked: dict[int, bool] = {}
        self._given_up: set[int] = set()
        self._searches: Counter[int] = Counter()
        self._decided: StateChange | None = None
        self._over = False

    def start(self) -> list[Effect]:
        """Follows what runs already and starts what needs nothing."""
        effects: list[Effect] = []
        for index, part in enumerate(self._parts):
            if part.awarded:
                self._states[index] = _There()
                effects.append(Follow(part.key))
        return effects + self._start_ready()

    def handle(self, event: Event) -> list[Effect]:
        """What to do after something happened."""
        if self._over:
            return []
        match event:
            case Placed(key):
                return self._placed(key)
            case Unplaced(job, error, at):
                return self._unplaced(job, error, at)
            case Vanished(key):
                return self._vanished(key)
            case Changed(change):
                if not change.state.ended:
                    return []
                return self._tried_again(change) or self._ended(change)
            case Grown(parts):
                return self._grown(parts)
            case StopAsked():
                return self._stop_asked(event)
            case _:
                assert_never(event)

    def unplaced(self) -> list[int]:
        """Jobs that no agent has yet."""
        return [
            index
            for index, state in enumerate(self._states)
            if isinstance(state, _Blocked | _Placing)
        ]

    def key(self, job: int) -> JobKey:
        """The attempt that is made, or will be made next."""
        return self._parts[job].key

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to start."""
        return self._stop is not None or self._decided is not None

    def _placed(self, key: JobKey) -> list[Effect]:
        self._states[key.job] = _There()
        return [Follow(key), *self._stop_where_wanted()]

    def _unplaced(self, job: int, error: MeshError | None, at: datetime) -> list[Effect]:
        key = self._parts[job].key
        if error is None:
            cause = self._stop.cause if self._stop is not None else self._why_in_vain()
            aborted = self._stop is not None and self._stop.abort
            state = JobState.ABORTED if aborted else JobState.STOPPED
            return self._ended(StateChange(key, state, at, cause, "stopped"))
        if self._searches_again(job, error, at):
            return [Place(key, LONGEST_REST_SECONDS)]
        return self._ended(legible(StateChange(key, JobState.FAILED, at, f"{error}", error.code)))

    def _grown(self, parts: Sequence[Part]) -> list[Effect]:
        old = zip(self._parts, parts, strict=False)
        self._parts = [replace(part, after=now.after) for part, now in old]
        for part in parts[len(self._parts) :]:
            self._parts.append(part)
            self._states.append(_Blocked())
        self._last = _last(self._parts)
        return []

    def _vanished(self, key: JobKey) -> list[Effect]:
        part = self._parts[key.job]
        if not isinstance(self._states[key.job], _There) or part.key != key:
            return []
        self._asked.pop(key.job, None)
        self._parts[key.job] = replace(part, key=replace(key, attempt=key.attempt + 1))
        self._states[key.job] = _Blocked()
        return self._start_ready() + self._end_if_over()

    def _searches_again(self, job: int, error: MeshError, at: datetime) -> bool:
        self._searches[job] += 1
        part = self._parts[job]
        return (
            isinstance(error, NoAgentFits | NoAgents)
            and not self.stopping
            and is_searched_again(part.retry, self._searches[job], at, part.since)
        )

    def _tried_again(self, change: StateChange) -> list[Effect]:
        """The next attempt at a job that ended; nothing if there is none."""
        job = change.key.job
        part = self._parts[job]
        there = isinstance(self._states[job], _There) and part.key == change.key
        if self.stopping or not there or not is_tried_again(part.retry, change, part.since):
            return []
        attempt = change.key.attempt + 1
        self._parts[job] = replace(part, key=replace(part.key, attempt=attempt))
        self._states[job] = _Placing()
        rest = rest_seconds(event_of(change), change.key.attempt)
        return [Place(self._parts[job].key, rest, change)]

    def _ended(self, change: StateChange) -> list[Effect]:
        job = change.key.job
        if isinstance(self._states[job], _Ended):
            return []
        self._states[job] = _Ended(change)
        if self._decided is None:
            self._decided = self._decision(change)
        return self._start_ready() + self._stop_where_wanted() + self._end_if_over()

    def _decision(self, change: StateChange) -> StateChange | None:
        """What the end of a job makes of the run."""
        job = change.key.job
        if change.state is JobState.DONE:
            done = all(self._is_done(index) for index in self._last)
            return self._end_of(self._last[-1]) if done else None
        if self._parts[job].master != job and self._is_done(self._parts[job].master):
            return None
        requested = job == len(self._parts) - 1
        return change if requested or self._stop else self._in_words(change)

    def _stop_asked(self, stop: StopAsked) -> list[Effect]:
        if self._stop is not None and (self._stop.abort or not stop.abort):
            return []
        self._stop = stop
        return self._stop_where_wanted() + self._end_if_over()

    def _start_ready(self) -> list[Effect]:
        if self.stopping:
            return []
        ready = [
            index
            for index, (part, state) in enumerate(zip(self._parts, self._states, strict=True))
            if isinstance(state, _Blocked) and all(self._is_done(job) for job in part.after)
        ]
        together = [index for index in ready if set(self._parts[index].gang) <= {*ready}]
        for index in together:
            self._states[index] = _Placing()
        return [
            PlaceGang(tuple(self._parts[node].key for node in part.gang))
            if part.gang
            else Place(part.key)
            for index in together
            if (part := self._parts[index]).master == index
        ]

    def _stop_where_wanted(self) -> list[Effect]:
        if not self.stopping:
            return []
        abort = self._stop is not None and self._stop.abort
        cause = self._stop.cause if self._stop is not None else self._why_in_vain()
        effects: list[Effect] = []
        for index, state in enumerate(self._states):
            if self._asked.get(index, False) or (index in self._asked and not abort):
                continue
            match state:
                case _Placing() if index not in self._given_up:
                    self._given_up.add(index)
                    effects.append(StopPlacing(index))
                case _There():
                    self._asked[index] = abort
                    patience = 0.0 if self._stop is not None else self._patience(index)
                    effects.append(StopJob(self._parts[index].key, abort, cause, patience))
                case _Placing() | _Blocked() | _Ended():
                    pass
        return effects

    def _end_if_over(self) -> list[Effect]:
        if any(isinstance(state, _Placing | _There) for state in self._states):
            return []
        if self._decided is None:
            if self._stop is None:
                return []
            self._decided = self._never_started(self._stop)
        self._over = True
        return [End(self._decided)]

    def _never_started(self, stop: StopAsked) -> StateChange:
        """The end of a run that was stopped between two jobs."""
        state = JobState.ABORTED if stop.abort else JobState.STOPPED
        return StateChange(self._parts[-1].key, state, stop.at, stop.cause, "stopped")

    def _patience(self, job: int) -> float:
        """How long a job goes on that nobody needs any more."""
        master = self._parts[job].master
        return PATIENCE_SECONDS if master != job and self._is_done(master) else 0.0

    def _end_of(self, job: int) -> StateChange | None:
        state = self._states[job]
        return state.change if isinstance(state, _Ended) else None

    def _is_done(self, job: int) -> bool:
        end = self._end_of(job)
        return end is not None and end.state is JobState.DONE

    def _in_words(self, change: StateChange) -> StateChange:
        """The end of a job that others needed, saying which it was."""
        name = self._parts[change.key.job].name or f"job {change.key.job}"
        cause = change.cause or change.state.value
        return replace(change, cause=f"{name}: {cause}")

    def _why_in_vain(self) -> str:
        return self._decided.cause if self._decided is not None else ""


def _last(parts: Sequence[Part]) -> list[int]:
    """The jobs that no other one needs, without nodes that have a master."""
    needed = {job for part in parts for job in part.after}
    return [
        index
        for index, part in enumerate(parts)
        if index not in needed and part.master == part.key.job
    ]
