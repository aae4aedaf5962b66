"""Carries a run out: the only place where the decisions of `run` and `auction` become calls.

The same driver works in a command that stays attached and in an agent that took a run over. What
an agent has it keeps, with or without a driver.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Conflict, MeshError, Missing, Refused, TooLate, Unreachable
from dstack_mesh.ids import PeerId
from dstack_scheduler import run as decisions
from dstack_scheduler.agent_port import Agent, Directory, Question
from dstack_scheduler.auction import Lot
from dstack_scheduler.award import Carrier, Confirmation, Parcel, Trees, commit, release, renewed
from dstack_scheduler.follow import Follower
from dstack_scheduler.job import EndOfLog, Fin, JobKey, JobSpec, JobState, StateChange
from dstack_scheduler.keep import KEEP_BYTES, Keeper
from dstack_scheduler.progress import Awarded, Progress, RunEnded, Watcher
from dstack_scheduler.reuse import look_up
from dstack_scheduler.run import Part, Run
from dstack_scheduler.search import Search, Won
from dstack_scheduler.submission import HandOver, Submission
from dstack_scheduler.track import Track

STOP_PAUSES_SECONDS = (0.1, 0.2, 0.5, 1.0)


class Driver:
    """Drives one run.

    Args:
        directory: Which agents there are.
        store: This machine's chunk store, which the agent of this home shares.
        watcher: Told of everything, one event at a time.
        random: Numbers from [0, 1), for jitter.
        keep_bytes_limit: Up to this size a job's artifacts are brought to this machine's store, so
            that there is a second copy; 0 brings none.
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
    ) -> None:
        self._submission = submission
        self._directory = directory
        self._watcher = watcher
        self._clock = clock
        self._random = random
        self._carrier = Carrier(directory, store, self._tell)
        self._keeper = Keeper(store, keep_bytes_limit)
        self._track = Track(submission)
        self._run = Run([_part(job) for job in self._track.jobs])
        self._telling = asyncio.Lock()
        self._searches: dict[int, asyncio.Task[Won | MeshError]] = {}
        self._committing: set[int] = set()
        self._settled = asyncio.Event()
        self._over = asyncio.Event()
        self._result: StateChange | MeshError | None = None
        self._errors: dict[int, MeshError] = {}
        self._stop: decisions.StopAsked | None = None
        self._started = False
        self._detached = False
