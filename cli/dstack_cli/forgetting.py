"""Has agents let go of what they keep between runs of a workflow."""

import asyncio
from pathlib import Path

from dstack_cli.here import repo_of
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Listing
from dstack_cli.output.table import Column, Table
from dstack_cli.reach import Private, carry_out, reaching
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_scheduler.agent_port import Agent

SCHEMA = "dstack.caches/v1"


def forget_caches(home: Home, workflow: str, as_json: bool, quiet: bool) -> None:
    """Forgets this home's caches of a workflow of this folder at every agent that answers."""
    repo = repo_of(Path.cwd())

    async def ask(agent: Agent) -> tuple[str, int | None]:
        try:
            return agent.card.name, await agent.forget_caches(repo, workflow)
        except MeshError as error:
            chosen(as_json, quiet).talk(f"{agent.card.name}: {error}")
            return agent.card.name, None

    async def work() -> list[tuple[str, int | None]]:
        async with reaching(home, Private.IF_HISTORY) as reach:
            return await asyncio.gather(*(ask(agent) for agent in await reach.answering()))

    found = sorted((name, many) for name, many in carry_out(work()) if many)
    chosen(as_json, quiet).listing(
        Listing(
            schema=SCHEMA,
            items=[{"agent": name, "caches": many} for name, many in found],
            table=Table(
                (Column("AGENT"), Column("CACHES")),
                tuple((name, str(many)) for name, many in found),
            ),
            names=[name for name, _ in found],
            empty=f"No agent that answers has a cache of {workflow}.",
        )
    )
