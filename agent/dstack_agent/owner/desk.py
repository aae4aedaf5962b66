"""What the owner can say to her agent, carried out: pause, resume, drain, and what holds now."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path

from dstack_agent.lease import Lease
from dstack_agent.owner.policy_file import InForce
from dstack_agent.owner.standing import Paused
from dstack_agent.owner.word import OwnersWord
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import AgentState
from dstack_scheduler.job import JobKey


@frozen
class Holding:
    """What holds now.

    Attributes:
        until: When a pause ends by itself; None where nobody knows.
        jobs: That run here.
        borrowed: Those of them that are not the owner's own.
    """

    state: AgentState
    until: datetime | None = None
    jobs: int = 0
    borrowed: int = 0

    @property
    def empty(self) -> bool:
        """Whether it runs nothing and takes nothing."""
        return self.state is not AgentState.ALIVE and not self.jobs


@frozen
class Rules:
    """The policy in force: where its file is, and what of it holds."""

    path: Path
    in_force: InForce


class OwnersDesk:
    """Takes the owner's orders.

    Args:
        word: Where they are kept.
        leases: Of all jobs that run; blocks.
        take_back: Asks jobs to save and go, with a cause and the seconds they have.
        lender: What people call the machine.
    """

    def __init__(
        self,
        word: OwnersWord,
        leases: Callable[[], Sequence[Lease]],
        take_back: Callable[[Sequence[JobKey], str, float], Awaitable[int]],
        lender: str,
    ) -> None:
        self._word = word
        self._leases = leases
        self._take_back = take_back
        self._lender = lender

    async def pause(self, until: datetime | None, now: bool) -> tuple[Holding, int]:
        """Takes the machine back; how many borrowers were asked to go. Raises Invalid."""
        await self._word.pause(until)
        asked = 0
        if now:
            keys = [lease.key for lease in await self._running() if lease.peer]
            cause = f"The owner of {self._lender} took the machine back."
            grace = self._word.in_force.policy.grace_seconds
            asked = await self._take_back(keys, cause, grace)
        return await self.holding(), asked

    async def resume(self) -> Holding:
        """Lends the machine again."""
        await self._word.resume()
        return await self.holding()

    async def drain(self) -> Holding:
        """Lets the machine run empty."""
        await self._word.drain()
        return await self.holding()

    async def holding(self) -> Holding:
        """What holds now."""
        leases, standing = await self._running(), self._word.standing
        return Holding(
            state=self._word.state,
            until=standing.until if isinstance(standing, Paused) else None,
            jobs=len(leases),
            borrowed=sum(bool(lease.peer) for lease in leases),
        )

    def rules(self) -> Rules:
        """The policy in force."""
        return Rules(self._word.file.path, self._word.in_force)

    async def _running(self) -> Sequence[Lease]:
        return await asyncio.to_thread(self._leases)
