"""Looks who is there and asks whoever is found: a dead machine must not hold up a listing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.membership.roll import RollCall

T = TypeVar("T")


@frozen
class Patience:
    """How long to look, in seconds.

    Attributes:
        enough: In all, once somebody has answered for everybody.
        quiet: Without a further answer, once somebody from afar has answered.
        lonely: In all, while nobody from afar has answered.
        longest: In all.
    """

    enough: float
    quiet: float
    lonely: float
    longest: float


LISTING = Patience(enough=0.25, quiet=0.3, lonely=1.0, longest=2.0)
"""For runs and tags: whoever is slower than that is left out, and found the next time."""

EVERYBODY = Patience(enough=0.3, quiet=0.8, lonely=2.5, longest=4.0)
"""For showing who is there: a machine that has just started announces itself after a second."""

ANSWER_SECONDS = 1.5
"""An agent that was found and does not answer a question within this is left out."""


class Search(Generic[T]):
    """Finds agents and asks each at once, until there is enough.

    Args:
        ask: The question; None is no answer.
        answers_for_all: Whether an answer is so good that slower agents are not waited for long.

    Attributes:
        found: Agents by id; remembered ones that do not answer are "gone" if that is known by then.
        answers: What was answered, by agent.
    """

    def __init__(
        self,
        patience: Patience,
        ask: Callable[[KnownAgent], Awaitable[T | None]],
        answers_for_all: Callable[[T], bool],
    ) -> None:
        self._patience = patience
        self._ask = ask
        self._for_all = answers_for_all
        self._began = self._now()
        self._good_at: float | None = None
        self._heard_at = self._began
        self._asking: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self.found: dict[PeerId, KnownAgent] = {}
        self.answers: dict[PeerId, T] = {}

    async def run(self, roll: RollCall) -> None:
        """Looks for agents and asks them."""
        looking = asyncio.create_task(self._look(roll))
        try:
            while not looking.done() and await self._wait({looking}, self._look_until()):
                pass
            await _cancelled({looking})
            await self._until_answered()
        finally:
            await _cancelled({looking, *self._asking})

    async def run_among(self, known: "list[KnownAgent]") -> None:
        """Asks agents that were found a moment ago."""
        for one in known:
            self._take(one)
        try:
            await self._until_answered()
        finally:
            await _cancelled(self._asking)

    async def _look(self, roll: RollCall) -> None:
        async with aclosing(roll.gather(self._patience.longest)) as gathered:
            async for known in gathered:
                self._take(known)

    def _take(self, known: KnownAgent) -> None:
        self.found[known.card.peer_id] = known
        self._heard_at = self._now()
        if known.answer is not None and (known.local or known.addresses):
            self._asking.add(asyncio.create_task(self._asked(known)))
        self._news.set()

    async def _asked(self, known: KnownAgent) -> None:
        answer = await self._ask(known)
        if answer is not None:
            self.answers[known.card.peer_id] = answer
            if self._good_at is None and self._for_all(answer):
                self._good_at = self._now()
                self._news.set()

    async def _until_answered(self) -> None:
        last = self._now() + ANSWER_SECONDS
        while pending := {task for task in self._asking if not task.done()}:
            if not await self._wait(pending, min(last, self._enough_at())):
                return

    def _look_until(self) -> float:
        patience = self._patience
        met = any(one.answer is not None and not one.local for one in self.found.values())
        quiet = self._heard_at + patience.quiet if met else self._began + patience.lonely
        return min(quiet, self._enough_at())

    def _enough_at(self) -> float:
        return float("inf") if self._good_at is None else self._good_at + self._patience.enough

    async def _wait(self, tasks: "set[asyncio.Task[None]]", until: float) -> bool:
        """Waits for one of the tasks or for news; false if it is time to go on."""
        left = until - self._now()
        if left <= 0:
            return False
        self._news.clear()
        news = asyncio.create_task(_set(self._news))
        try:
            await asyncio.wait(
                {*tasks, news},
                timeout=None if left == float("inf") else left,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            await _cancelled({news})
        return True

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def search(roll: RollCall, patience: Patience) -> tuple[KnownAgent, ...]:
    """Who answers; remembered agents that do not are in it as "gone" if that is known by then."""

    async def nothing(known: KnownAgent) -> None:
        return None

    looking = Search[None](patience, nothing, lambda _: False)
    await looking.run(roll)
    return by_name(looking.found)


def by_name(found: dict[PeerId, KnownAgent]) -> tuple[KnownAgent, ...]:
    """Agents in the order of their names."""
    return tuple(sorted(found.values(), key=lambda one: (one.card.name, one.card.peer_id)))


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _cancelled(tasks: "set[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
