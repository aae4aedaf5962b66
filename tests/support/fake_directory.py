"""Whom simulated agents find."""

from collections.abc import AsyncGenerator

from dstack_mesh.ids import PeerId
from dstack_scheduler.agent_port import Agent


class FakeDirectory:
    """Agents in the order in which they are to be found."""

    def __init__(self, *agents: Agent) -> None:
        self.known = list(agents)

    async def agents(self) -> AsyncGenerator[Agent, None]:
        for agent in self.known:
            yield agent

    async def find(self, peer_id: PeerId) -> Agent | None:
        return next((agent for agent in self.known if agent.card.peer_id == peer_id), None)
