"""After sleep an agent announces itself anew: others may have forgotten it."""

import asyncio
from datetime import UTC, datetime
from ipaddress import IPv4Address

from dstack_mesh.discovery.announcement import Announcement, Sighting
from dstack_mesh.discovery.interfaces import Interface
from dstack_mesh.discovery.mdns import Multicast
from support.eventually import eventually_async

KEY = b"k" * 32


class JumpingClock:
    """A clock that counts sleep, moved by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def elapsed(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.now(UTC)


def loopback() -> tuple[Interface, ...]:
    return (Interface("lo", True, True, False, (IPv4Address("127.0.0.1"),)),)


async def test_after_sleep_an_agent_is_announced_again() -> None:
    clock, heard = JumpingClock(), list[Sighting]()
    told = Announcement.of_agent(KEY, 7420)
    async with asyncio.TaskGroup() as tasks:
        agent = Multicast(told, lambda _: None, clock=clock, look=loopback)
        other = Multicast(None, heard.append, look=loopback, mesh=KEY)
        running = [tasks.create_task(one.run()) for one in (agent, other)]

        async def sightings() -> int:
            return sum(one.instance == told.instance for one in heard)

        await eventually_async(sightings, within=10)
        before = await sightings()
        clock.at += 3600

        async def again() -> bool:
            return await sightings() > before

        await eventually_async(again, within=10)
        for one in running:
            one.cancel()
