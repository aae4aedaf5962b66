"""Finding and being found on the local network by multicast DNS.

What is announced tells a stranger that something speaks this protocol on a port, and nothing else:
the instance and the host name are random, and members know their own by a tag that only the mesh's
discovery key can make. What is heard is a hint for whom to dial, never that somebody lives: a
killed agent stays in every cache for twenty minutes.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from dstack_mesh.discovery.interfaces import addresses_of, leading_outside, read_interfaces
from dstack_mesh.discovery.switch import enabled
from dstack_mesh.faults import Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger(__name__)

SERVICE = "_dstack-mesh._tcp.local."
LOOK_AGAIN_SECONDS = 5.0
"""How often interfaces are read again: a laptop moves, and nothing tells zeroconf."""

RESOLVE_SECONDS = 3.0
RESOLVED_AT_ONCE = 8
MOST_WAITING = 256
"""Announcements that wait to be resolved; a flood is dropped, not stored."""


def tag_of(discovery_key: bytes, instance: str) -> str:
    """How members recognise an announcement of their mesh: 12 hexadecimal digits."""
    return hmac.new(discovery_key, instance.encode(), hashlib.sha256).hexdigest()[:12]


@frozen
class Announcement:
    """What one peer tells the network: a port, and a mark that some can read.

    Make it with `of_agent` or `of_invite`.
    """

    port: int
    instance: str
    text: tuple[tuple[str, str], ...]

    @classmethod
    def of_agent(cls, discovery_key: bytes, port: int) -> "Announcement":
        """An agent of a mesh; only members can tell which mesh."""
        instance = secrets.token_hex(8)
        return cls(port, instance, (("v", "1"), ("t", tag_of(discovery_key, instance))))

    @classmethod
    def of_invite(cls, invite_id: str, port: int) -> "Announcement":
        """The listener of an invitation, found by the public part of its code."""
        return cls(port, secrets.token_hex(8), (("v", "1"), ("i", invite_id)))


@frozen
class Sighting:
    """An announcement that was heard."""

    instance: str
    addresses: tuple[Address, ...]
    text: dict[str, str] = field(hash=False)

    def of_mesh(self, discovery_key: bytes) -> bool:
        """Whether a member of that mesh announced it."""
        wanted = tag_of(discovery_key, self.instance)
        return hmac.compare_digest(self.text.get("t", ""), wanted)

    def of_invite(self, invite_id: str) -> bool:
        return self.text.get("i", "") == invite_id


class Multicast:
    """Announces and listens for as long as it runs, on the interfaces that there are.

    Args:
        announcement: What to tell; None only listens.
        on_sighting: Called for each announcement that was heard, ours excluded; must not block.
        on_trouble: Called with a sentence when multicast does not work, once until it changes.
    """

    def __init__(
        self,
        announcement: Announcement | None,
        on_sighting: Callable[[Sighting], None],
        on_trouble: Callable[[str], None] = log.warning,
    ) -> None:
        self._announcement = announcement
        self._on_sighting = on_sighting
        self._on_trouble = on_trouble
        self._said = ""

    async def run(self) -> None:
        """Runs until cancelled; begins anew on other interfaces when they change."""
        from zeroconf import Error

        while True:
            addresses = usable_addresses()
            try:
                async with listening(addresses, self._heard) as zeroconf:
                    await _announce(zeroconf, self._announcement, addresses)
                    self._said = ""
                    await _until_other_than(addresses)
            except* (OSError, RuntimeError, Error, Unreachable) as failed:
                self._trouble(f"Multicast does not work here: {failed.exceptions[0]}")
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _heard(self, sighting: Sighting) -> None:
        if self._announcement is None or sighting.instance != self._announcement.instance:
            self._on_sighting(sighting)

    def _trouble(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            self._on_trouble(f"{sentence} Agents are found by seeds and memory only.")


def usable_addresses() -> tuple[IPv4Address, ...]:
    """Own addresses on networks that lead to others; loopback on a machine without any."""
    return addresses_of(leading_outside(read_interfaces(), loopback_if_alone=True))


async def find_invite(invite_id: str, within: float) -> tuple[Address, ...]:
    """Where the listener of an invitation stands; empty if nobody announced it in time.

    Raises:
        Unreachable: Multicast does not work here.
    """
    found: asyncio.Future[Sighting] = asyncio.get_running_loop().create_future()

    def heard(sighting: Sighting) -> None:
        if sighting.of_invite(invite_id) and not found.done():
            found.set_result(sighting)

    try:
        async with asyncio.timeout(within), listening(usable_addresses(), heard):
            return (await found).addresses
    except TimeoutError:
        return ()


@asynccontextmanager
async def listening(
    addresses: tuple[IPv4Address, ...], on_sighting: Callable[[Sighting], None]
) -> AsyncGenerator["AsyncZeroconf"]:
    """Listens on the interfaces with these addresses. Raises Unreachable if it cannot."""
    from zeroconf import DNSQuestionType, IPVersion
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    if not addresses:
        raise Unreachable("no network interface leads anywhere.", code="no-multicast")
    try:
        zeroconf = AsyncZeroconf(
            interfaces=[str(address) for address in addresses], ip_version=IPVersion.V4Only
        )
    except (OSError, RuntimeError) as failed:
        raise Unreachable(f"{failed}.", code="no-multicast") from failed
    waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)

    def changed(
        zeroconf: "Zeroconf", service_type: str, name: str, state_change: "ServiceStateChange"
    ) -> None:
        if state_change.name != "Removed" and not waiting.full():
            waiting.put_nowait(name)

    try:
        async with asyncio.TaskGroup() as tasks:
            # Several, so that names that do not resolve hold up nobody for long.
            resolving = [
                tasks.create_task(_resolve(zeroconf, waiting, on_sighting))
                for _ in range(RESOLVED_AT_ONCE)
            ]
            browser = AsyncServiceBrowser(
                zeroconf.zeroconf,
                SERVICE,
                handlers=[changed],
                # An answer by unicast would reach only one of those who share the port on a
                # machine: another agent, or avahi.
                question_type=DNSQuestionType.QM,
            )
            try:
                yield zeroconf
            finally:
                for one in resolving:
                    one.cancel()
                await browser.async_cancel()
    finally:
        await zeroconf.async_close()


async def _resolve(
    zeroconf: "AsyncZeroconf",
    waiting: asyncio.Queue[str],
    on_sighting: Callable[[Sighting], None],
) -> None:
    from zeroconf import DNSQuestionType
    from zeroconf.asyncio import AsyncServiceInfo

    while True:
        name = await waiting.get()
        info = AsyncServiceInfo(SERVICE, name)
        if info.load_from_cache(zeroconf.zeroconf) or await info.async_request(
            zeroconf.zeroconf, RESOLVE_SECONDS * 1000, question_type=DNSQuestionType.QM
        ):
            sighting = _sighting(info)
            if sighting is not None:
                on_sighting(sighting)


def _sighting(info: "AsyncServiceInfo") -> Sighting | None:
    if not info.port or not info.name.endswith(f".{SERVICE}"):
        return None
    addresses = tuple(Address(f"{host}:{info.port}") for host in info.parsed_addresses()[:8])
    text = {
        key.decode(errors="replace"): (value or b"").decode(errors="replace")
        for key, value in info.properties.items()
    }
    return Sighting(info.name.removesuffix(f".{SERVICE}"), addresses, text)


async def _announce(
    zeroconf: "AsyncZeroconf",
    announcement: Announcement | None,
    addresses: tuple[IPv4Address, ...],
) -> None:
    if announcement is None:
        return
    from zeroconf.asyncio import AsyncServiceInfo

    info = AsyncServiceInfo(
        SERVICE,
        f"{announcement.instance}.{SERVICE}",
        addresses=[address.packed for address in addresses],
        port=announcement.port,
        properties=dict(announcement.text),
        # Never the machine's name, which zeroconf would take by itself.
        server=f"{secrets.token_hex(8)}.local.",
    )
    # It returns an awaitable of an awaitable: the first ends before anything was sent. Names are
    # random, so nobody needs to be asked whether they are taken.
    begun: Awaitable[Any] = zeroconf.async_register_service(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        info, cooperating_responders=True
    )
    await (await begun)


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


async def _until_other_than(addresses: tuple[IPv4Address, ...]) -> None:
    # Nothing in the standard library waits for a change of interfaces, so this looks.
    while usable_addresses() == addresses:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
