"""Looks who is there, and stops once it is quiet: a dead machine must not hold up a listing."""

import asyncio
from contextlib import aclosing

from dstack_mesh.frozen import frozen
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.membership.roll import RollCall


@frozen
class Patience:
    """How long to look, in seconds.

    Attributes:
        quiet: Without a further answer, once somebody from afar has answered.
        lonely: In all, while nobody from afar has answered.
        longest: In all.
    """

    quiet: float
    lonely: float
    longest: float


LISTING = Patience(quiet=0.3, lonely=1.0, longest=2.0)
"""For runs and tags: whoever is slower than that is left out, and found the next time."""

EVERYBODY = Patience(quiet=0.8, lonely=2.5, longest=4.0)
"""For showing who is there: a machine that has just started announces itself after a second."""


async def search(roll: RollCall, patience: Patience) -> tuple[KnownAgent, ...]:
    """Who answers; remembered agents that do not are in it as "gone" if that is known by then."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    found: dict[str, KnownAgent] = {}
    news = asyncio.Event()

    async def collect() -> None:
        async with aclosing(roll.gather(patience.longest)) as gathered:
            async for known in gathered:
                found[known.card.peer_id] = known
                news.set()

    async with asyncio.TaskGroup() as tasks:
        collecting = tasks.create_task(collect())
        while not collecting.done():
            met = any(one.answer is not None and not one.local for one in found.values())
            left = patience.quiet if met else began + patience.lonely - loop.time()
            waiting = tasks.create_task(news.wait())
            await asyncio.wait(
                {collecting, waiting}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
            )
            waiting.cancel()
            if not news.is_set():
                collecting.cancel()
                break
            news.clear()
    return tuple(sorted(found.values(), key=lambda one: (one.card.name, one.card.peer_id)))
