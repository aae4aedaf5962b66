"""Gives a job to the agent that holds for it: first the bytes, then the award itself.

The hold is renewed while bytes move. The award is idempotent, so a lost answer is simply asked for
again; if the agent stays silent nobody knows whether it has the job, and that is what is said.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from enum import Enum
from typing import Protocol

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Broken, Conflict, MeshError, Missing, Refused, TooLate, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest
from dstack_scheduler.agent_port import Agent, Directory, Hold, Question
from dstack_scheduler.job import Input, JobSpec
from dstack_scheduler.progress import Sending, Tell

RENEW_SECONDS = 5.0
"""A third of the time that agents grant, so that a renewal may get lost."""

MAY_BE_LOST = 1

RELEASE_SECONDS = 1.0
COMMIT_PAUSES_SECONDS = (0.0, 0.1, 0.3, 1.0, 2.0)


class Trees(Protocol):
    """What must be known of this machine's chunk store."""

    def missing_manifest(self, digest: Digest) -> bool: ...

    def keep(self, digest: Digest, owner: str) -> None:
        """Has a tree stay for an owner, as a run's id. Blocks."""
        ...

    def read_file(self, digest: Digest, path: str, limit_bytes: int) -> bytes:
        """A small file of a tree. Blocks. Raises Missing or Refused."""
        ...


@frozen
class Parcel:
    """What travels with a job.

    Attributes:
        code_bytes: Size of the code, for progress.
    """

    spec: JobSpec
    code_bytes: int = 0


class Confirmation(Enum):
    """Whether the agent has the job."""

    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"


class Carrier:
    """Brings what a job needs to an agent.

    Args:
        trees: This machine's chunk store, which the agent of this home shares.
    """

    def __init__(self, directory: Directory, trees: Trees, tell: Tell) -> None:
        self._directory = directory
        self._trees = trees
        self._tell = tell

    async def bring(self, agent: Agent, parcel: Parcel) -> None:
        """Sends the code, and the inputs that the agent cannot fetch by itself."""
        job = parcel.spec.key.job
        if not agent.local:
            await self._send(agent, job, "code", parcel.spec.code_digest, parcel.code_bytes)
        for each in parcel.spec.inputs:
            if not can_fetch(agent.card, each):
                await self._relay(agent, job, each)

    async def bring_code(self, agent: Agent, parcel: Parcel) -> None:
        """Sends the code to an agent that said that it does not have it."""
        job = parcel.spec.key.job
        await self._send(agent, job, "code", parcel.spec.code_digest, parcel.code_bytes)

    async def _relay(self, agent: Agent, job: int, what: Input) -> None:
        """Sends an input whose sources nobody but this machine can reach."""
        if self._trees.missing_manifest(what.digest):
            await self._fetch(what)
        if not agent.local:
            await self._send(agent, job, what.origin or what.path, what.digest, what.size_bytes)

    async def _fetch(self, what: Input) -> None:
        for source in what.sources:
            found = await self._directory.find(source.peer_id)
            if found is not None:
                await found.fetch_tree(what.digest)
                return
        raise Refused(
            f"The artifacts of {what.origin or what.path} cannot be fetched.",
            "No agent that has them answers.",
            "See who is there with: dstack agents",
            code="no-source",
        )

    async def _send(self, agent: Agent, job: int, what: str, digest: Digest, total: int) -> None:
        await self._tell(Sending(job, agent.card, what, 0, total))
        sent = await agent.send_tree(digest)
        await self._tell(Sending(job, agent.card, what, sent, sent))


def can_fetch(card: PeerCard, what: Input) -> bool:
    """Whether an agent has an input or can dial somebody who has it."""
    return any(source.addresses or source.peer_id == card.peer_id for source in what.sources)


async def renewed(
    agent: Agent,
    question: Question,
    epoch: int,
    bringing: Coroutine[None, None, None],
    every_seconds: float = RENEW_SECONDS,
) -> None:
    """Waits for bytes to arrive and renews the hold meanwhile. Raises what either raises."""
    moving = asyncio.ensure_future(bringing)
    try:
        lost = 0
        while not (await asyncio.wait({moving}, timeout=every_seconds))[0]:
            try:
                await agent.reserve(question, epoch)
                lost = 0
            except (TooLate, Unreachable):
                lost += 1
                if lost > MAY_BE_LOST:
                    raise
    finally:
        moving.cancel()
        await asyncio.wait({moving})
    moving.result()


async def commit(
    agent: Agent,
    hold: Hold,
    epoch: int,
    spec: JobSpec,
    secrets: Mapping[str, str],
    pauses: Sequence[float] = COMMIT_PAUSES_SECONDS,
) -> Confirmation:
    """Awards the job. Raises a MeshError only if the job does not run there for sure."""
    trouble: MeshError | None = None
    for pause in pauses:
        await asyncio.sleep(pause)
        try:
            await agent.commit(hold.hold_id, epoch, spec, secrets)
            return Confirmation.CONFIRMED
        except (Broken, TooLate, Unreachable) as error:
            trouble = error
        except Conflict as error:
            if trouble is not None and error.code == "attempt-ended":
                return Confirmation.CONFIRMED
            raise
        except Missing:  # there is neither a hold nor a job
            raise
        except MeshError:
            # What is refused may be the repetition alone: an earlier try may have succeeded.
            if trouble is not None and await _has(agent, spec):
                return Confirmation.UNCONFIRMED
            raise
    if isinstance(trouble, Broken) and not await _has(agent, spec):
        raise trouble
    return Confirmation.UNCONFIRMED


async def release(agent: Agent, hold: Hold) -> None:
    """Gives a hold back; if the agent does not hear it, the hold ends by itself."""
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await agent.release(hold.hold_id)
    except (MeshError, TimeoutError):
        return


async def _has(agent: Agent, spec: JobSpec) -> bool:
    try:
        listing = await agent.list_runs([spec.key.run_id])
    except MeshError:
        return True
    return any(job.key == spec.key for run in listing.runs for job in run.jobs)
