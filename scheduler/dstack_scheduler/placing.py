"""Places one attempt: finds an agent, brings it what the job needs, awards the job.

A search can be stopped at any moment and gives back what it holds. An award cannot: once it was
sent nobody but the agent knows, so it is carried to its end and then the job is stopped there.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_scheduler.agent_port import Directory, question_of
from dstack_scheduler.auction_events import Lot
from dstack_scheduler.award import Carrier, Confirmation, Parcel, commit, release, renewed
from dstack_scheduler.job import JobKey, JobState, Source, StateChange
from dstack_scheduler.progress import Awarded, Awarding, Declined, Tell
from dstack_scheduler.search import Search, Won
from dstack_scheduler.submission import Submission
from dstack_scheduler.track import Place, Track


class Outcome(Enum):
    """How a placing ended, if not with an error."""

    PLACED = "placed"
    STOPPED = "stopped"


@frozen
class Means:
    """What the parts of a driver share."""

    submission: Submission
    directory: Directory
    carrier: Carrier
    track: Track
    tell: Tell
    clock: Clock
    chance: Callable[[], float]


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
        self._finding: asyncio.Task[Won | MeshError] | None = None
        self._awarding: asyncio.Task[MeshError | None] | None = None
        self._stopped = False

    async def run(self) -> Outcome | MeshError:
        """Until an agent has the job, none ever will, or it was stopped."""
        absent = set(self._parcel.spec.secrets_needed) - set(self._means.submission.secrets)
        if absent:
            return _without(sorted(absent))
        search = self._search()
        while True:
            won = await self._found(search)
            if won is None:
                return Outcome.STOPPED
            if isinstance(won, MeshError):
                return won
            self._awarding = self._tasks.create_task(self._award(won))
            declined = await self._awarding
            self._awarding = None
            if declined is None:
                return Outcome.PLACED
            search.declined(won, declined)

    def stop(self) -> None:
        """Gives the search up, unless the award is under way."""
        self._stopped = True
        if self._finding is not None:
            self._finding.cancel()

    async def settle(self, seconds: float) -> None:
        """Waits for an award that is under way."""
        if self._awarding is not None:
            await asyncio.wait({self._awarding}, timeout=seconds)

    def _search(self) -> Search:
        means, spec = self._means, self._parcel.spec
        lot = Lot(
            job=self._key.job,
            workflow=spec.workflow or spec.provider,
            gpus=spec.needs.gpus,
            input_bytes=sum(each.size_bytes for each in spec.inputs),
            placement=means.track.jobs[self._key.job].placement,
        )
        epoch = means.submission.epoch
        return Search(
            self._question, lot, epoch, means.directory, means.tell, means.clock, means.chance
        )

    async def _found(self, search: Search) -> Won | MeshError | None:
        """An agent that holds for the job and has what it needs; None if this was stopped."""
        if self._stopped:
            return None
        self._finding = self._tasks.create_task(self._find(search))
        try:
            return await self._finding
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None
        finally:
            self._finding = None

    async def _find(self, search: Search) -> Won | MeshError:
        epoch = self._means.submission.epoch
        await asyncio.sleep(self._rest_seconds)
        self._rest_seconds = 0.0
        while True:
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

    async def _award(self, won: Won) -> MeshError | None:
        means, card = self._means, won.agent.card
        source = Source(card.peer_id, card.addresses)
        means.track.put(self._key.job, Place(self._key, source, won.agent, won, confirmed=False))
        # A driver that may be started again writes down what it is about to do.
        await means.tell(Awarding(self._key.job, self._key.attempt, card))
        try:
            confirmation = await self._commit(won)
        except MeshError as error:
            means.track.remove(self._key.job)
            await release(won.agent, won.hold)
            await means.tell(Declined(self._key.job, self._key.attempt))
            return error
        except asyncio.CancelledError:
            # Nothing happens if the agent has the job by now.
            await release(won.agent, won.hold)
            raise
        if confirmation is Confirmation.CONFIRMED:
            await confirmed(means, self._key)
        else:
            cause = f"{card.name} does not say whether it has the job; asking it again."
            await self._say(JobState.WAITING, cause, "unconfirmed")
        return None

    async def _say(self, state: JobState, cause: str, reason: str) -> None:
        now = self._means.clock.now()
        await self._means.tell(StateChange(self._key, state, now, cause, reason))

    async def _commit(self, won: Won) -> Confirmation:
        submission, spec = self._means.submission, self._parcel.spec
        secrets = {name: submission.secrets[name] for name in spec.secrets_needed}
        try:
            return await commit(won.agent, won.hold, submission.epoch, spec, secrets)
        except Refused:
            if not won.agent.local:
                raise
        # The agent of this home has a store of its own after all.
        await self._means.carrier.bring_code(won.agent, self._parcel)
        return await commit(won.agent, won.hold, submission.epoch, spec, secrets)


def _without(names: list[str]) -> Refused:
    return Refused(
        "The job cannot be awarded without its secrets.",
        f"Whoever drives the run now does not have {', '.join(names)}: values stay in the home "
        "where the run was submitted.",
        "run it again and stay attached",
        "secrets-absent",
    )


async def confirmed(means: Means, key: JobKey) -> None:
    """Notes and tells that the agent has the attempt, once."""
    place = means.track.place(key.job)
    if place is None or place.confirmed or place.won is None:
        return
    means.track.put(key.job, replace(place, confirmed=True))
    won = place.won
    gpus, card = won.hold.gpu_uuids, won.agent.card
    await means.tell(Awarded(key.job, key.attempt, card, won.agent.local, gpus, won.why))
