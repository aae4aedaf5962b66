"""Carries an auction out: asks agents in parallel, keeps the time, reserves at the best."""

import asyncio
from collections.abc import Callable
from typing import assert_never

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_scheduler import auction_events as auction
from dstack_scheduler.agent_port import Agent, Directory, Hold, Question
from dstack_scheduler.asking import Asking
from dstack_scheduler.auction import Auction
from dstack_scheduler.auction_events import Lot
from dstack_scheduler.award import release
from dstack_scheduler.progress import Tell


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
        self._tell = tell
        self._clock = clock
        self._auction = Auction(lot, chance)
        self._asking: Asking[auction.Event] = Asking(question, directory, clock)
        self._effects: list[auction.Effect] | None = None

    def declined(self, won: Won, error: MeshError) -> None:
        """Says that the job does not run at the winner after all; `next` goes on from there."""
        event = auction.Declined(won.agent.card.peer_id, error)
        self._effects = self._auction.handle(event, self._clock.elapsed())

    async def next(self) -> Won | MeshError:
        """The next agent that holds for the job, or why there will be none."""
        async with self._asking.open():
            if self._effects is None:  # a job that waits its turn has no time running
                self._effects = self._auction.start(self._clock.elapsed())
            while True:
                for effect in self._effects:
                    over = await self._carry_out(effect)
                    if over is not None:
                        return over
                event = await self._asking.next_event()
                if isinstance(event, MeshError):
                    return event
                self._effects = self._auction.handle(event, self._clock.elapsed())

    async def _carry_out(self, effect: auction.Effect) -> Won | MeshError | None:
        asking = self._asking
        match effect:
            case auction.Look(round):
                asking.look(round)
            case auction.Ask(peer, round):
                asking.ask(peer, round)
            case auction.Reserve(peer):
                await asking.put(await self._reserve(asking.agents[peer]))
            case auction.WakeAt(at):
                asking.wake_at(at)
            case auction.Tell(event):
                await self._tell(event)
            case auction.Award(peer, hold, why):
                return Won(asking.agents[peer], hold, why)
            case auction.GiveUp(error):
                return error
            case _:
                assert_never(effect)
        return None

    async def _reserve(self, agent: Agent) -> auction.Held | auction.Declined:
        peer = agent.card.peer_id
        held = await reserve(agent, self._question, self._epoch)
        if isinstance(held, MeshError):
            return auction.Declined(peer, held)
        return auction.Held(peer, held)


async def reserve(agent: Agent, question: Question, epoch: int) -> Hold | MeshError:
    """A hold, or why there is none. Cancelled, it gives back what the call may still bring."""
    reserving = asyncio.ensure_future(agent.reserve(question, epoch))
    try:
        return await asyncio.shield(reserving)
    except MeshError as error:
        return error
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
