"""Finds the inputs of a run that exist already, by asking every agent what it knows."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import Agent, Directory, DrivenJob, Listing
from dstack_scheduler.job import Fin, Input, Source
from dstack_scheduler.resolve import resolve
from dstack_scheduler.submission import Submission

LIST_SECONDS = 5.0


class Elsewhere(Protocol):
    """Runs that are kept outside the mesh, as in a remote."""

    async def told(self) -> Sequence[Listing]:
        """What is kept, as agents tell it."""
        ...

    async def bring(self, what: Input, reached: bool) -> Input:
        """An input as agents may know it; its bytes are in this machine's store on return if no
        agent was reached that has them. Raises MeshError."""
        ...


async def with_inputs(
    submission: Submission, directory: Directory, elsewhere: Elsewhere | None = None
) -> tuple[DrivenJob, ...]:
    """The jobs of a submission with everything laid in that exists already.

    Args:
        elsewhere: Where else runs are looked up, if anywhere.

    Raises:
        Missing: A run or tag that a job takes its input from is not there.
    """
    if not submission.reuses:
        return submission.jobs
    listings, cards = await _listings(directory)
    listings += await elsewhere.told() if elsewhere is not None else ()
    repo = submission.record.revision.repo
    found: dict[int, tuple[Input, ...]] = {}
    for index, reuses in submission.reuses.items():
        inputs = [each for reuse in reuses for each in resolve(reuse, repo, listings)]
        if elsewhere is not None:
            inputs = [await elsewhere.bring(each, _is_had(each, cards)) for each in inputs]
        found[index] = tuple(_dialled(each, cards) for each in inputs)
    return tuple(
        replace(job, spec=replace(job.spec, inputs=job.spec.inputs + found.get(index, ())))
        for index, job in enumerate(submission.jobs)
    )


def kept_by(fin: Fin, card: PeerCard, origin: str) -> tuple[Input, ...]:
    """What a job kept, as inputs of the jobs after it."""
    source = Source(card.peer_id, card.addresses)
    return tuple(
        Input(artifact.digest, artifact.path, (source,), origin, artifact.size_bytes)
        for artifact in fin.artifacts
    )


async def _listings(directory: Directory) -> tuple[list[Listing], dict[PeerId, PeerCard]]:
    cards: dict[PeerId, PeerCard] = {}
    async with asyncio.TaskGroup() as tasks:
        asked: list[asyncio.Task[Listing | None]] = []
        async with aclosing(directory.agents()) as agents:
            async for agent in agents:
                cards[agent.card.peer_id] = agent.card
                asked.append(tasks.create_task(_listing(agent)))
    answers = [task.result() for task in asked]
    return [listing for listing in answers if listing is not None], cards


async def _listing(agent: Agent) -> Listing | None:
    try:
        async with asyncio.timeout(LIST_SECONDS):
            return await agent.list_runs()
    except (MeshError, TimeoutError):
        return None


def _is_had(what: Input, cards: dict[PeerId, PeerCard]) -> bool:
    """Whether an agent that answers has an input."""
    return any(source.peer_id in cards for source in what.sources)


def _dialled(what: Input, cards: dict[PeerId, PeerCard]) -> Input:
    """The same input with the addresses that its sources have now."""
    sources = tuple(
        replace(source, addresses=cards[source.peer_id].addresses)
        if source.peer_id in cards
        else source
        for source in what.sources
    )
    return replace(what, sources=sources)
