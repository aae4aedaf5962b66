"""Looks at borrowed cards, and asks borrowers to go when somebody else uses them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from dstack_agent.bell import Bell
from dstack_agent.lease import Lease
from dstack_agent.owner.reclaim import Reclaim
from dstack_mesh.machine import Gpu
from dstack_scheduler.job import JobKey
from dstack_scheduler.policy import Policy
from dstack_scheduler.policy import Reclaim as Rule

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks at cards that are lent out. Larger finds a stranger later."""

IDLE_SECONDS = 2.0
"""Between two looks at the policy while no card is lent out, or nobody is asked."""

TakeBack = Callable[[Sequence[JobKey], str, float], Awaitable[int]]
"""Asks jobs to save and go, with a cause and the seconds they have."""


@dataclass(slots=True)
class Reclaiming:
    """Looks only while a card is lent out and the policy says that borrowers are asked.

    Attributes:
        cards: The cards of this moment, with strangers as their holders; blocks.
        leases: All leases; blocks.
        changes: Rings when a lease begins or ends.
        policy: As it is now.
    """

    cards: Callable[[], Sequence[Gpu]]
    leases: Callable[[], Sequence[Lease]]
    changes: Bell
    policy: Callable[[], Policy]
    take_back: TakeBack
    core: Reclaim

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            strokes = self.changes.strokes
            if await self._looked():
                await asyncio.sleep(LOOK_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self.changes.later_than(strokes)

    async def _looked(self) -> bool:
        try:
            return await self._look()
        except Exception:  # a bug of ours or a broken disk; the agent and its jobs go on
            log.exception("borrowed cards could not be looked at")
            return False

    async def _look(self) -> bool:
        """One look; whether the next must come soon."""
        policy = self.policy()
        if policy.reclaim is Rule.WAIT:
            return False
        borrowed = await asyncio.to_thread(self._borrowed)
        if not borrowed:
            return False
        cards = await asyncio.to_thread(self.cards)
        for each in self.core.look(cards, borrowed):
            log.warning("job %s is asked to go. %s", each.key, each.cause)
            await self.take_back([each.key], each.cause, policy.grace_seconds)
        return True

    def _borrowed(self) -> list[Lease]:
        return [lease for lease in self.leases() if lease.gpu_uuids and lease.peer]
