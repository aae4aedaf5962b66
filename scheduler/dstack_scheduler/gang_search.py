"""Carries the auction of a gang out: asks once for all nodes, reserves in the gang's order."""

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError
from dstack_scheduler import auction_events as auction
from dstack_scheduler import gang
from dstack_scheduler.agent_port import Directory, Question
from dstack_scheduler.asking import Asking
from dstack_scheduler.auction_events import Lot
from dstack_scheduler.award import release
from dstack_scheduler.gang import Gang
from dstack_scheduler.progress import Tell
from dstack_scheduler.search import Won, reserve

WHY = "all nodes start together"


class GangSearch:
    """Finds an agent for each node.

    Args:
        questions: By rank; the master's is asked for all.
        tell: Awaited for each event, in order.
        chance: Numbers from [0, 1), for jitter.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        lot: Lot,
        epoch: int,
        directory: Directory,
        tell: Tell,
        clock: Clock,
        chance: Callable[[], float],
    ) -> None:
        self._questions = questions
        self._epoch = epoch
        self._tell = tell
        self._clock = clock
        self._gang = Gang(lot, len(questions), chance)
        self._asking: Asking[gang.GangEvent] = Asking(questions[0], directory, clock)
        self._held: dict[int, Won] = {}
        self._effects = self._gang.start(clock.elapsed())

    def declined(self, node: int, error: MeshError) -> None:
        """Says that a node cannot start where it has its seat; `next` goes on from there."""
        event = gang.Unseated(node, self._held[node].agent.card.peer_id, error)
        self._effects = self._gang.handle(event, self._clock.elapsed())

    async def next(self) -> tuple[Won, ...] | MeshError:
        """An agent that holds for each node, by rank, or why there will be none.

        Cancelled, it gives back what it holds.
        """
        try:
            async with self._asking.open():
                return await self._until_complete()
        except asyncio.CancelledError:
            await self.give_back()
            raise

    async def give_back(self) -> None:
        """Releases every hold."""
        held, self._held = self._held, {}
        async with asyncio.TaskGroup() as tasks:
            for won in held.values():
                tasks.create_task(release(won.agent, won.hold))

    async def _until_complete(self) -> tuple[Won, ...] | MeshError:
        while True:
            for effect in self._effects:
                over = await self._carry_out(effect)
                if over is not None:
                    return over
            event = await self._asking.next_event()
            if isinstance(event, MeshError):
                return event
            assert not isinstance(event, auction.Held | auction.Declined)
            self._effects = self._gang.handle(event, self._clock.elapsed())

    async def _carry_out(self, effect: gang.GangEffect) -> tuple[Won, ...] | MeshError | None:
        asking = self._asking
        match effect:
            case auction.Look(round):
                asking.look(round)
            case auction.Ask(peer, round):
                asking.ask(peer, round)
            case gang.Take():
                await asking.put(await self._take(effect))
            case gang.GiveBack():
                await self.give_back()
            case auction.WakeAt(at):
                asking.wake_at(at)
            case auction.Tell(event):
                await self._tell(event)
            case gang.Start(seats):
                return tuple(self._held[seat.node] for seat in seats)
            case auction.GiveUp(error):
                return error
            case _:
                assert_never(effect)
        return None

    async def _take(self, take: gang.Take) -> gang.Seated | gang.Unseated:
        agent = self._asking.agents[take.peer]
        held = await reserve(agent, self._questions[take.node], self._epoch)
        if isinstance(held, MeshError):
            return gang.Unseated(take.node, take.peer, held)
        self._held[take.node] = Won(agent, held, WHY)
        return gang.Seated(take.node, take.peer, held)
