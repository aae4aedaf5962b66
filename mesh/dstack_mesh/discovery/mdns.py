"""Finding and being found on the local network by multicast DNS.

Each interface that leads to others has a listener of its own, which announces only that interface's
addresses there. What is heard is a hint for whom to dial, never that somebody lives: a killed agent
stays in every cache for twenty minutes.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network

from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.discovery.announcement import Announcement, Sighting
from dstack_mesh.discovery.changes import LOOK_AGAIN_SECONDS, watching
from dstack_mesh.discovery.interfaces import (
    Interface,
    addresses_of,
    multicast_interfaces,
    read_interfaces,
)
from dstack_mesh.discovery.listening import announce, listening
from dstack_mesh.discovery.sieve import Everybody, Holder, Interest, Members, Nobody, Sieve
from dstack_mesh.discovery.switch import enabled
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import Address

log = logging.getLogger(__name__)


def networks() -> tuple[Interface, ...]:
    """Interfaces to announce on; loopback on a machine without any."""
    return multicast_interfaces(read_interfaces(), loopback_if_alone=True)


class Multicast:
    """Announces and listens for as long as it runs, on the interfaces that there are.

    Args:
        announcement: What to tell; None only listens.
        on_sighting: Called for each announcement that was heard, ours excluded; must not block.
        on_trouble: Called with a sentence when multicast does not work, once until it changes.
        clock: To notice that the machine slept.
        look: Which networks there are.
        mesh: Discovery key of the mesh whose agents are looked for. Without it everybody is, or
            nobody by who announces something.
    """

    def __init__(
        self,
        announcement: Announcement | None,
        on_sighting: Callable[[Sighting], None],
        on_trouble: Callable[[str], None] = log.warning,
        clock: Clock | None = None,
        look: Callable[[], tuple[Interface, ...]] = networks,
        mesh: bytes | None = None,
    ) -> None:
        self._announcement = announcement
        self._on_sighting = on_sighting
        self._on_trouble = on_trouble
        self._clock = clock or SystemClock()
        self._look = look
        self._mesh = mesh
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Runs until cancelled; an interface that comes, goes, moves or slept begins anew."""
        running: dict[Interface, asyncio.Task[None]] = {}
        sieves: dict[Interface, Sieve] = {}
        async with watching(self._clock) as changes, asyncio.TaskGroup() as tasks:
            while True:
                try:
                    found = self._look()
                except OSError as failed:  # no file descriptors; what runs goes on
                    log.warning("the networks of this machine cannot be read: %s", failed)
                    found = tuple(running)
                for one in [one for one in running if one not in found]:
                    del sieves[one]
                    await _end(running.pop(one))
                for one in found:
                    if one not in running:
                        sieves[one] = Sieve(self._interest())
                        running[one] = tasks.create_task(self._stay(one, sieves[one]))
                    sieves[one].elsewhere = _elsewhere(one, found)
                if not found:
                    self._trouble("", "Multicast does not work here: no network leads anywhere.")
                if await changes.wait():
                    log.info("the machine slept: announcing again")
                    while running:
                        await _end(running.popitem()[1])

    async def _stay(self, on: Interface, sieve: Sieve) -> None:
        from zeroconf import Error

        addresses = addresses_of([on])
        while True:
            try:
                async with listening(addresses, sieve, self._heard, on.name) as zeroconf:
                    told = self._announcement and self._announcement.reached_at(addresses)
                    if self._announcement is not None and told:
                        await announce(zeroconf, self._announcement, told)
                    self._said.pop(on.name, None)
                    await asyncio.Event().wait()
            except* (OSError, RuntimeError, Error, Unreachable) as failed:
                what = f"Multicast does not work on {on.name}: {failed.exceptions[0]}"
                self._trouble(on.name, what)
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _interest(self) -> Interest:
        if self._mesh is not None:
            return Members(self._mesh)
        return Nobody() if self._announcement is not None else Everybody()

    def _heard(self, sighting: Sighting) -> None:
        if self._announcement is None or sighting.instance != self._announcement.instance:
            self._on_sighting(sighting)

    def _trouble(self, name: str, sentence: str) -> None:
        if sentence != self._said.get(name):
            self._said[name] = sentence
            self._on_trouble(f"{sentence} Agents are found by seeds and memory only.")


def _elsewhere(on: Interface, all_of_them: tuple[Interface, ...]) -> tuple[IPv4Network, ...]:
    """Networks that only other interfaces lead to."""
    return tuple(
        network
        for one in all_of_them
        for network in one.networks
        if not any(network.overlaps(own) for own in on.networks)
    )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def find_invite(invite_id: str, within: float) -> tuple[Address, ...]:
    """Where the listener of an invitation stands; empty if nobody announced it in time.

    Raises:
        Unreachable: Multicast does not work here.
    """
    found: asyncio.Future[Sighting] = asyncio.get_running_loop().create_future()
    here = addresses_of(networks())

    def heard(sighting: Sighting) -> None:
        if sighting.of_invite(invite_id) and not found.done():
            found.set_result(sighting)

    try:
        async with asyncio.timeout(within), listening(here, Sieve(Holder(invite_id)), heard):
            return (await found).addresses
    except TimeoutError:
        return ()
    except ExceptionGroup as failed:
        raise Unreachable(f"{failed.exceptions[0]}.", code="no-multicast") from failed


@asynccontextmanager
async def announcing(announcement: Announcement) -> AsyncGenerator[None]:
    """Announces within the block, if multicast is enabled and works; says goodbye at the end."""
    if not enabled(os.environ):
        yield
        return
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Multicast(announcement, lambda _: None).run())
        try:
            yield
        finally:
            running.cancel()
