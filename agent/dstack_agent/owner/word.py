"""The owner's word: her policy and whether she lends the machine now, as bids must know them."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from dstack_agent.owner.policy_file import InForce, PolicyFile
from dstack_agent.owner.standing import Draining, Open, Paused, Standing, standing_at, state_of
from dstack_agent.owner.standing_file import read_standing, write_standing
from dstack_agent.owner.terms import Terms
from dstack_mesh.clock import Clock
from dstack_mesh.faults import Invalid
from dstack_mesh.machine import AgentState

LOOK_SECONDS = 1.0
"""How late a change of the policy's file is seen."""

USAGE_SECONDS = 60.0
"""How old the count of used disk may be, which looks at every file of every job."""


class OwnersWord:
    """What the owner said. Answers without I/O; use from one event loop.

    Args:
        file: Her policy, loaded.
        path: Where pauses are kept.
        clock: Where time comes from.
        used: Bytes that jobs have on the disk; blocks, and is asked only if a rule counts them.
    """

    def __init__(
        self, file: PolicyFile, path: Path, clock: Clock, used: Callable[[], int] = lambda: 0
    ) -> None:
        self.file = file
        self._path = path
        self._clock = clock
        self._used = used
        self._standing = read_standing(path)
        self._disk_used = 0
        self._counted: float | None = None

    async def run(self) -> None:
        """Keeps the policy and the count of used disk fresh, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Sees what changed."""
        now = self._clock.elapsed()
        await asyncio.to_thread(self.file.look, now)
        if self.in_force.policy.disk_bytes is None:
            return
        if self._counted is None or now - self._counted >= USAGE_SECONDS:
            self._counted = now
            self._disk_used = await asyncio.to_thread(self._used)

    @property
    def in_force(self) -> InForce:
        """The policy that holds."""
        return self.file.in_force

    @property
    def standing(self) -> Standing:
        """Whether the machine is lent now."""
        return standing_at(self._standing, self._clock.now())

    @property
    def state(self) -> AgentState:
        """The same as all peers are told."""
        return state_of(self.standing)

    def terms(self) -> Terms:
        """On which terms a job is taken now."""
        standing = self.standing
        until = standing.until if isinstance(standing, Paused) else None
        return Terms(
            state=state_of(standing),
            policy=self.in_force.policy,
            at=wall_clock(self._clock.now()),
            paused_until=None if until is None else wall_clock(until),
            disk_used_bytes=self._disk_used,
        )

    async def pause(self, until: datetime | None) -> None:
        """Keeps the machine for its owner. Durable on return. Raises Invalid for a past end."""
        if until is not None and until <= self._clock.now():
            raise Invalid("The pause would end before it begins.", f"It is {until}.")
        await self._say(Paused(until))

    async def resume(self) -> None:
        """Lends the machine again. Durable on return."""
        await self._say(Open())

    async def drain(self) -> None:
        """Lets the machine run empty. Durable on return."""
        await self._say(Draining())

    async def _say(self, standing: Standing) -> None:
        await asyncio.to_thread(write_standing, self._path, standing)
        self._standing = standing


def wall_clock(moment: datetime) -> datetime:
    """What the machine's clock on the wall shows at a moment."""
    return moment.astimezone().replace(tzinfo=None)
