"""Places one attempt: finds an agent, brings it what the job needs, awards the job.

A search can be stopped at any moment and gives back what it holds. An award cannot: once it was
sent nobody but the agent knows, so it is carried to its end and then the job is stopped there.
"""

import asyncio
from enum import Enum

from dstack_mesh.faults import MeshError
from dstack_scheduler.abandoning import Abandonable
from dstack_scheduler.agent_port import question_of
from dstack_scheduler.auction_events import Lot
from dstack_scheduler.award import Parcel, release, renewed
from dstack_scheduler.awarding import Means, award
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.search import Search, Won


class Outcome(Enum):
    """How a placing ended, if not with an error."""

    PLACED = "placed"
    STOPPED = "stopped"


class Placing:
    """Places one attempt, after a rest. `tasks` outlives it."""

    def __init__(
        self, key: JobKey, means: Means, tasks: asyncio.TaskGroup, rest_seconds: float = 0.0
    ) -> None:
        self._key = key
        self._means = means
        self._tasks = tasks
        self._rest_seconds = rest_seconds
        self._parcel = Parcel(means.track.spec(key), means.submission.code_bytes)
        self._question = question_of(self._parcel.spec)
        self._turn = means.queues.turn(self._question, means.track.jobs[key.job].placement)
        self._finding: Abandonable[Won | MeshError] = Abandonable(tasks)
        self._awarding: asyncio.Task[MeshError | None] | None = None

    async def run(self) -> Outcome | MeshError:
        """Until an agent has the job, none ever will, or it was stopped."""
        if (absent := self._means.absent_secrets([self._parcel])) is not None:
            return absent
        search = self._search()
        while True:
            won = await self._finding.result(self._find(search))
            if won is None:
                return Outcome.STOPPED
            if isinstance(won, MeshError):
                return won
            self._awarding = self._tasks.create_task(award(self._means, self._parcel, won))
            declined = await self._awarding
            self._awarding = None
            if declined is None:
                return Outcome.PLACED
            search.declined(won, declined)

    def stop(self) -> None:
        """Gives the search up, unless the award is under way."""
        self._finding.stop()

    async def settle(self, seconds: float) -> None:
        """Waits for an award that is under way."""
        if self._awarding is not None:
            await asyncio.wait({self._awarding}, timeout=seconds)

    def _search(self) -> Search:
        means = self._means
        lot = lot_of(self._parcel.spec, means.track.jobs[self._key.job].placement)
        epoch = means.submission.epoch
        return Search(
            self._question, lot, epoch, means.directory, means.tell, means.clock, means.chance
        )

    async def _find(self, search: Search) -> Won | MeshError:
        """An agent that holds for the job and has what it needs."""
        epoch = self._means.submission.epoch
        await asyncio.sleep(self._rest_seconds)
        self._rest_seconds = 0.0
        while True:
            async with self._turn:
                won = await search.next()
            if isinstance(won, MeshError):
                return won
            bringing = self._means.carrier.bring(won.agent, self._parcel)
            try:
                await renewed(won.agent, self._question, epoch, bringing)
                return won
            except MeshError as error:
                await release(won.agent, won.hold)
                search.declined(won, error)
            except asyncio.CancelledError:
                await release(won.agent, won.hold)
                raise


def lot_of(spec: JobSpec, placement: str) -> Lot:
    """What is auctioned of a job."""
    return Lot(
        job=spec.key.job,
        workflow=spec.workflow or spec.provider,
        gpus=spec.needs.gpus,
        input_bytes=sum(each.size_bytes for each in spec.inputs),
        placement=placement,
    )
