"""Awards an attempt to the agent that holds for it, and notes and tells what is known of that.

Once an award was sent nobody but the agent knows, so it is carried to its end.
"""

import asyncio
from collections.abc import Callable, Sequence

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_scheduler.agent_port import Directory
from dstack_scheduler.award import Carrier, Confirmation, Parcel, commit, release
from dstack_scheduler.job import JobKey, JobState, Source, StateChange
from dstack_scheduler.progress import Awarded, Awarding, Declined, Tell
from dstack_scheduler.queues import Queues
from dstack_scheduler.search import Won
from dstack_scheduler.submission import Submission
from dstack_scheduler.track import Place, Track


@frozen
class Means:
    """What the parts of a driver share; `queues` has who asks now."""

    submission: Submission
    directory: Directory
    carrier: Carrier
    track: Track
    tell: Tell
    clock: Clock
    chance: Callable[[], float]
    queues: Queues

    def absent_secrets(self, parcels: Sequence[Parcel]) -> Refused | None:
        """The error if secrets of the jobs are not here."""
        needed = {name for parcel in parcels for name in parcel.spec.secrets_needed}
        absent = needed - set(self.submission.secrets)
        return _without(sorted(absent), self.submission.record.run_name) if absent else None


async def award(means: Means, parcel: Parcel, won: Won) -> MeshError | None:
    """Awards the job; an error only if it does not run there for sure."""
    key, card = parcel.spec.key, won.agent.card
    source = Source(card.peer_id, card.addresses)
    means.track.put(key.job, Place(key, source, won.agent, won, confirmed=False))
    # A driver that may be started again writes down what it is about to do.
    await means.tell(Awarding(key.job, key.attempt, card))
    try:
        confirmation = await _commit(means, parcel, won)
    except MeshError as error:
        means.track.remove(key.job)
        await release(won.agent, won.hold)
        await means.tell(Declined(key.job, key.attempt))
        return error
    except asyncio.CancelledError:
        # Nothing happens if the agent has the job by now.
        await release(won.agent, won.hold)
        raise
    if confirmation is Confirmation.CONFIRMED:
        await confirmed(means, key)
    else:
        cause = f"{card.name} does not say whether it has the job; asking it again."
        now = means.clock.now()
        await means.tell(StateChange(key, JobState.WAITING, now, cause, "unconfirmed"))
    return None


async def confirmed(means: Means, key: JobKey) -> None:
    """Notes and tells that the agent has the attempt, once."""
    place = means.track.place(key.job)
    if place is None or place.confirmed or place.won is None:
        return
    means.track.put(key.job, place.sure())
    won = place.won
    gpus, card = won.hold.gpu_uuids, won.agent.card
    await means.tell(Awarded(key.job, key.attempt, card, won.agent.local, gpus, won.why))


async def _commit(means: Means, parcel: Parcel, won: Won) -> Confirmation:
    submission, spec = means.submission, parcel.spec
    secrets = {name: submission.secrets[name] for name in spec.secrets_needed}
    try:
        return await commit(won.agent, won.hold, submission.epoch, spec, secrets)
    except Refused:
        if not won.agent.local:
            raise
    # The agent of this home has a store of its own after all.
    await means.carrier.bring_code(won.agent, parcel)
    return await commit(won.agent, won.hold, submission.epoch, spec, secrets)


def _without(names: list[str], run_name: str) -> Refused:
    return Refused(
        "The job cannot be awarded without its secrets.",
        f"Whoever drives the run now does not have {', '.join(names)}: values stay in the home "
        "where the run was submitted.",
        f"dstack restart {run_name}   (there, and stay attached)",
        "secrets-absent",
    )
