"""Places a gang: finds an agent for each node, brings what they need, awards all or none.

Holds are kept until every node has its bytes. The master is awarded first: if that fails nothing
has begun, and the search goes on. What fails after it ends the run, whose driver stops the others.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import MeshError, Refused
from dstack_scheduler.abandoning import Abandonable
from dstack_scheduler.agent_port import Question, question_of
from dstack_scheduler.award import Parcel, renewed
from dstack_scheduler.awarding import Means, award
from dstack_scheduler.gang_search import GangSearch
from dstack_scheduler.job import JobKey
from dstack_scheduler.placing import Outcome, lot_of
from dstack_scheduler.search import Won

Outcomes = dict[JobKey, Outcome | MeshError]


class GangPlacing:
    """Places one attempt of each node. `tasks` outlives it."""

    def __init__(self, keys: Sequence[JobKey], means: Means, tasks: asyncio.TaskGroup) -> None:
        self._keys = tuple(keys)
        self._means = means
        self._tasks = tasks
        self._parcels = [
            Parcel(means.track.spec(key), means.submission.code_bytes) for key in self._keys
        ]
        self._finding: Abandonable[tuple[Won, ...] | MeshError] = Abandonable(tasks)
        self._awarding: asyncio.Task[Outcomes | MeshError] | None = None

    async def run(self) -> Outcomes:
        """Until agents have all nodes, none ever will, or it was stopped."""
        if (absent := self._means.absent_secrets(self._parcels)) is not None:
            return self._all(absent)
        search = self._search()
        while True:
            seats = await self._finding.result(self._find(search))
            if seats is None:
                await search.give_back()
                return self._all(Outcome.STOPPED)
            if isinstance(seats, MeshError):
                return self._all(seats)
            self._awarding = self._tasks.create_task(self._award(seats))
            outcome = await self._awarding
            self._awarding = None
            if isinstance(outcome, dict):
                return outcome
            search.declined(0, outcome)

    def stop(self) -> None:
        """Gives the search up, unless the awards are under way."""
        self._finding.stop()

    async def settle(self, seconds: float) -> None:
        """Waits for awards that are under way."""
        if self._awarding is not None:
            await asyncio.wait({self._awarding}, timeout=seconds)

    def _all(self, outcome: Outcome | MeshError) -> Outcomes:
        return dict.fromkeys(self._keys, outcome)

    def _search(self) -> GangSearch:
        means = self._means
        lot = lot_of(self._parcels[0].spec, means.track.jobs[self._keys[0].job].placement)
        return GangSearch(
            *([question_of(parcel.spec) for parcel in self._parcels], lot),
            *(means.submission.epoch, means.directory, means.tell, means.clock, means.chance),
        )

    async def _find(self, search: GangSearch) -> tuple[Won, ...] | MeshError:
        """Agents that hold for all nodes and have what they need."""
        while True:
            seats = await search.next()
            if isinstance(seats, MeshError):
                return seats
            try:
                failed = await self._bring(seats)
            except asyncio.CancelledError:
                await search.give_back()
                raise
            if failed is None:
                return seats
            search.declined(*failed)

    async def _bring(self, seats: Sequence[Won]) -> tuple[int, MeshError] | None:
        """Brings every node its bytes; which one it failed for, and why."""
        brought = asyncio.Barrier(len(seats))

        async def bring(node: int) -> None:
            await self._means.carrier.bring(seats[node].agent, self._parcels[node])
            # Who is served early keeps its hold alive until all are.
            await brought.wait()

        work = [
            asyncio.ensure_future(
                renewed(seats[node].agent, self._question(node), self._epoch, bring(node))
            )
            for node in range(len(seats))
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
        for node, task in enumerate(work):
            if task in done and isinstance(error := task.exception(), MeshError):
                return node, error
        for task in done:
            task.result()
        return None

    async def _award(self, seats: Sequence[Won]) -> Outcomes | MeshError:
        """Awards all; an error if not even the master is awarded."""
        meeting = seats[0].hold.meeting_point
        if not meeting:
            return _nowhere(seats[0].agent.card)
        parcels = [_told(parcel, meeting) for parcel in self._parcels]
        refused = await award(self._means, parcels[0], seats[0])
        if refused is not None:
            return refused
        pairs = list(zip(parcels[1:], seats[1:], strict=True))
        others = await asyncio.gather(*(award(self._means, *pair) for pair in pairs))
        outcomes = [error or Outcome.PLACED for error in (None, *others)]
        return dict(zip(self._keys, outcomes, strict=True))

    def _question(self, node: int) -> Question:
        return question_of(self._parcels[node].spec)

    @property
    def _epoch(self) -> int:
        return self._means.submission.epoch


def _nowhere(card: PeerCard) -> Refused:
    return Refused(
        f"{card.name} does not say where other nodes reach it.",
        f"It runs version {card.version}, which knows no gangs.",
        f"update {card.name}",
        code="no-meeting-point",
    )


def _told(parcel: Parcel, meeting_point: str) -> Parcel:
    """The same for a node that knows where the master is."""
    spec = parcel.spec
    node = spec.node and replace(spec.node, master=meeting_point)
    return replace(parcel, spec=replace(spec, node=node))
