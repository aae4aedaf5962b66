"""Asks agents beside each other and keeps the time: what an auction and a gang do the same way."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Generic, TypeVar

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Busy, MeshError, TooLate, Unreachable
from dstack_mesh.ids import PeerId
from dstack_scheduler import auction_events as auction
from dstack_scheduler.agent_port import Agent, Directory, Question
from dstack_scheduler.refusal import refusal
from dstack_scheduler.verdict import Bid, Never, NotNow

LOOK_SECONDS = 5.0
"""Discovery ends after so long, whatever it still hopes for."""

EVENTS = 1024
"""Answers waiting to be taken; whoever asks more agents at once waits."""

E = TypeVar("E")


class Asking(Generic[E]):
    """Answers to one question become events; `E` are those that the asker adds.

    Attributes:
        agents: Those that were found.
    """

    def __init__(self, question: Question, directory: Directory, clock: Clock) -> None:
        self._question = question
        self._directory = directory
        self._clock = clock
        self.agents: dict[PeerId, Agent] = {}
        self._events: asyncio.Queue[auction.Event | E | MeshError] = asyncio.Queue(EVENTS)
        self._wakes: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """As long as it is open, agents are asked; what is on its way when it closes is dropped."""
        async with asyncio.TaskGroup() as self._group:
            try:
                yield
            finally:
                for task in self._tasks:
                    task.cancel()
                self._tasks.clear()

    def look(self, round: int) -> None:
        """Begins to find out who is there."""
        self._begin(self._look(round))

    def ask(self, peer: PeerId, round: int) -> None:
        """Begins to ask an agent."""
        self._begin(self._ask(self.agents[peer], round))

    def wake_at(self, at: float) -> None:
        """Has a tick come at this time."""
        self._wakes.append(at)

    async def put(self, event: auction.Event | E) -> None:
        """Adds an event of the asker's own."""
        await self._events.put(event)

    async def next_event(self) -> auction.Event | E | MeshError:
        """The next answer, or a tick when it is time for one."""
        now = self._clock.elapsed()
        wait = max(0.0, min(self._wakes) - now) if self._wakes else None
        try:
            async with asyncio.timeout(wait):
                return await self._events.get()
        except TimeoutError:
            now = self._clock.elapsed()
            self._wakes = [at for at in self._wakes if at > now]
            return auction.Tick()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, round: int) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                async with aclosing(self._directory.agents()) as agents:
                    async for agent in agents:
                        self.agents[agent.card.peer_id] = agent
                        await self._events.put(auction.Found(agent.card, agent.local))
        except MeshError as error:
            await self._events.put(error)
        except TimeoutError:
            pass
        await self._events.put(auction.AllFound(round))

    async def _ask(self, agent: Agent, round: int) -> None:
        peer = agent.card.peer_id
        try:
            bid = await agent.ask(self._question)
        except MeshError as error:
            refused = bid_of_error(error)
            if refused is None:
                await self._events.put(auction.Silent(peer, round, str(error)))
                return
            bid = refused
        await self._events.put(auction.Answered(peer, round, bid))


def bid_of_error(error: MeshError) -> Bid | None:
    """What an error in answer to a question comes to; None if it is none: the agent is silent."""
    match error:
        case Unreachable() | TooLate():
            return None
        case Busy():  # about this call, not about the job
            return Bid(NotNow((refusal(error),)))
        case _:
            return Bid(Never((refusal(error),)))
