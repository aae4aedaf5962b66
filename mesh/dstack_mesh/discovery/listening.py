"""Multicast DNS on one network: heard through a sieve, resolved, and told."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, cast

from dstack_mesh.discovery.announcement import SERVICE, Announcement, Sighting, is_instance
from dstack_mesh.discovery.sieve import Sieve
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import Address

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

RESOLVE_SECONDS = 3.0
RESOLVED_AT_ONCE = 8
MOST_WAITING = 256
"""Announcements that wait to be resolved; a flood is dropped, not stored."""


@asynccontextmanager
async def listening(
    addresses: tuple[IPv4Address, ...],
    sieve: Sieve,
    on_sighting: Callable[[Sighting], None],
    interface: str = "",
) -> AsyncGenerator["AsyncZeroconf"]:
    """Listens on the interfaces with these addresses. Raises Unreachable if it cannot."""
    from zeroconf import DNSQuestionType
    from zeroconf.asyncio import AsyncServiceBrowser

    zeroconf = await _open(addresses, sieve)
    waiting: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING)

    def changed(
        zeroconf: "Zeroconf", service_type: str, name: str, state_change: "ServiceStateChange"
    ) -> None:
        # Anybody may announce any name as one of ours, and zeroconf raises for those that are not.
        told = state_change.name != "Removed" and is_instance(name)
        if told and not waiting.full():
            waiting.put_nowait(name)

    try:
        async with asyncio.TaskGroup() as tasks:
            # Several, so that names that do not resolve hold up nobody for long.
            resolving = [
                tasks.create_task(_resolve(zeroconf, waiting, on_sighting, interface))
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


async def announce(
    zeroconf: "AsyncZeroconf", announcement: Announcement, addresses: tuple[IPv4Address, ...]
) -> None:
    """Tells the network; the goodbye is said when `listening` ends."""
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


async def _open(addresses: tuple[IPv4Address, ...], sieve: Sieve) -> "AsyncZeroconf":
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    if not addresses:
        raise Unreachable("no network interface leads anywhere.", code="no-multicast")
    try:
        zeroconf = AsyncZeroconf(
            interfaces=[str(address) for address in addresses], ip_version=IPVersion.V4Only
        )
        await zeroconf.zeroconf.async_wait_for_start()
    except (OSError, RuntimeError) as failed:
        raise Unreachable(f"{failed}.", code="no-multicast") from failed
    for reader in zeroconf.zeroconf.engine.readers:
        transport = reader.transport
        inner = cast(asyncio.DatagramProtocol, transport.get_protocol())
        transport.set_protocol(_Sieved(inner, sieve))
    return zeroconf


class _Sieved(asyncio.DatagramProtocol):
    """Stands between a socket and zeroconf."""

    def __init__(self, inner: asyncio.DatagramProtocol, sieve: Sieve) -> None:
        self._inner = inner
        self._sieve = sieve

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._sieve.takes(data, str(addr[0]), time.monotonic()):
            self._inner.datagram_received(data, cast(tuple[str, int], addr))

    def error_received(self, exc: Exception) -> None:
        self._inner.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)


async def _resolve(
    zeroconf: "AsyncZeroconf",
    waiting: asyncio.Queue[str],
    on_sighting: Callable[[Sighting], None],
    interface: str,
) -> None:
    from zeroconf import DNSQuestionType
    from zeroconf.asyncio import AsyncServiceInfo

    while True:
        name = await waiting.get()
        info = AsyncServiceInfo(SERVICE, name)
        if info.load_from_cache(zeroconf.zeroconf) or await info.async_request(
            zeroconf.zeroconf, RESOLVE_SECONDS * 1000, question_type=DNSQuestionType.QM
        ):
            sighting = _sighting(info, interface)
            if sighting is not None:
                on_sighting(sighting)


def _sighting(info: "AsyncServiceInfo", interface: str) -> Sighting | None:
    if not info.port or not info.name.endswith(f".{SERVICE}"):
        return None
    addresses = tuple(Address(f"{host}:{info.port}") for host in info.parsed_addresses()[:8])
    text = {
        key.decode(errors="replace"): (value or b"").decode(errors="replace")
        for key, value in info.properties.items()
    }
    return Sighting(info.name.removesuffix(f".{SERVICE}"), addresses, text, interface)
