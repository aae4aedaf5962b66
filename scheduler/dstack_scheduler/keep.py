"""Brings a second copy of what a job kept to this machine, so that no disk is its only place."""

import asyncio

from dstack_mesh.faults import MeshError
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.award import Trees
from dstack_scheduler.job import Fin
from dstack_scheduler.progress import Kept

KEEP_BYTES = 256 * 2**20
"""Up to this size a second copy is brought without being asked for."""

KEEP_SECONDS = 60.0
"""So long the end of a run waits for copies that are under way."""


async def keep(agent: Agent, fin: Fin, store: Trees, limit_bytes: int) -> Kept | None:
    """Fetches all artifacts of a job, or none; None if there is nothing to tell.

    The agent of this home shares this machine's store: a copy there would be no second one.
    """
    total = sum(artifact.size_bytes for artifact in fin.artifacts)
    if agent.local or not fin.artifacts or total > limit_bytes:
        return None
    try:
        for artifact in fin.artifacts:
            if store.missing_manifest(artifact.digest):
                await agent.fetch_tree(artifact.digest)
            await asyncio.to_thread(store.keep, artifact.digest, fin.key.run_id)
    except MeshError:
        # The original is where it was; a copy that failed is only not told of.
        return None
    return Kept(fin.key.job, agent.card, total)
