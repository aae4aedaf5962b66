"""Carries an auction out: asks agents in parallel, keeps the time, reserves at the best."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import assert_never

from dstack_mesh.clock import Clock
from dstack_mesh.faults import Busy, MeshError, TooLate, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_scheduler import auction_events as auction
from dstack_scheduler.agent_port import Agent, Directory, Hold, Question
from dstack_scheduler.auction import Auction
from dstack_scheduler.auction_events import Lot
from dstack_scheduler.award import release
from dstack_scheduler.progress import Tell
from dstack_scheduler.refusal import refusal
from dstack_scheduler.verdict import Bid, Never, NotNow

LOOK_SECONDS = 5.0
"""Discovery ends after so long, whatever it still hopes for."""

EVENTS = 1024
"""Answers waiting to be taken; whoever asks more agents at once waits."""


@frozen
class Won:
    """An agent holds for the job. `why` is one clause for people."""

    agent: Agent
    hold: Hold
    why: str


class Search:
    """Finds an agent for one job.

    Args:
        tell: Awaited for each event, in order.
        chance: Numbers from [0, 1), for jitter.
    """

    def __init__(
        self,
        question: Question,
        lot: Lot,
        epoch: int,
        directory: Directory,
        tell: Tell,
        clock: Clock,
        chance: Callable[[], float],
    ) -> None:
        self._question = question
        self._epoch = epoch
        self._directory = directory
        self._tell = tell
        self._clock = clock
        self._auction = Auction(lot, chance)
        self._agents: dict[PeerId, Agent] = {}
        self._events: asyncio.Queue[auction.Event | MeshError] = asyncio.Queue(EVENTS)
        self._wakes: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._effects = self._auction.start(clock.elapsed())

    def declined(self, won: Won, error: MeshError) -> None:
        """Says that the job does not run at the winner after all; `next` goes on from there."""
        event = auction.Declined(won.agent.card.peer_id, error)
        self._effects = self._auction.handle(event, self._clock.elapsed())

    async def next(self) -> Won | MeshError:
        """The next agent that holds for the job, or why there will be none."""
        async with asyncio.TaskGroup() as tasks:
            try:
                return await self._until_held(tasks)
            finally:
                for task in self._tasks:
                    task.cancel()
                self._tasks.clear()

    async def _until_held(self, tasks: asyncio.TaskGroup) -> Won | MeshError:
        while True:
            for effect in self._effects:
                over = await self._carry_out(effect, tasks)
                if over is not None:
                    return over
            event = await self._next_event()
            if isinstance(event, MeshError):
                return event
            self._effects = self._auction.handle(event, self._clock.elapsed())

    async def _carry_out(
        self, effect: auction.Effect, tasks: asyncio.TaskGroup
    ) -> Won | MeshError | None:
        match effect:
            case auction.Look(round):
                self._begin(tasks, self._look(round))
            case auction.Ask(peer, round):
                self._begin(tasks, self._ask(self._agents[peer], round))
            case auction.Reserve(peer):
                await self._events.put(await self._reserve(self._agents[peer]))
            case auction.WakeAt(at):
                self._wakes.append(at)
            case auction.Tell(event):
                await self._tell(event)
            case auction.Award(peer, hold, why):
                return Won(self._agents[peer], hold, why)
            case auction.GiveUp(error):
                return error
            case _:
                assert_never(effect)
        return None

    def _begin(self, tasks: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = tasks.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _next_event(self) -> auction.Event | MeshError:
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

    async def _look(self, round: int) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                async with aclosing(self._directory.agents()) as agents:
                    async for agent in agents:
                        self._agents[agent.card.peer_id] = agent
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
        except (Unreachable, TooLate) as error:
            await self._events.put(auction.Silent(peer, round, str(error)))
        except Busy as error:  # about this call, not about the job
            busy = Bid(NotNow((refusal(error),)))
            await self._events.put(auction.Answered(peer, round, busy))
        except MeshError as error:
            never = Bid(Never((refusal(error),)))
            await self._events.put(auction.Answered(peer, round, never))
        else:
            await self._events.put(auction.Answered(peer, round, bid))

    async def _reserve(self, agent: Agent) -> auction.Held | auction.Declined:
        peer = agent.card.peer_id
        reserving = asyncio.ensure_future(agent.reserve(self._question, self._epoch))
        try:
            return auction.Held(peer, await asyncio.shield(reserving))
        except MeshError as error:
            return auction.Declined(peer, error)
        except asyncio.CancelledError:
            await _release_when_held(agent, reserving)
            raise


async def _release_when_held(agent: Agent, reserving: "asyncio.Future[Hold]") -> None:
    """Gives back what a reservation that nobody waits for any more may still bring."""
    try:
        async with asyncio.timeout(1.0):
            hold = await reserving
    except (MeshError, TimeoutError):
        return
    await release(agent, hold)
