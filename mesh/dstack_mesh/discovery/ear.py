"""Whether multicast gets through, tried on each network by itself: for whoever looks for trouble.

Apart from an agent's own listener, because it must tell "nobody speaks" from "nothing arrives".
"""

import asyncio
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import IPv4Address

from dstack_mesh.discovery.announcement import SERVICE
from dstack_mesh.discovery.interfaces import Interface
from dstack_mesh.frozen import frozen

GROUP, PORT = "224.0.0.251", 5353
ASK_EVERY_SECONDS = 0.7
MOST_OTHERS = 64
MOST_PACKETS = 2000
"""Of one pause between questions; a flood is not kept."""

_ANYTHING = "_services._dns-sd._udp.local."
"""What printers, televisions and avahi answer to: a sign of life of a network without agents."""

_POINTER, _INTERNET = 12, 1


@frozen
class Earshot:
    """What came of speaking to the group on one interface.

    Attributes:
        refused: Why the kernel did not send; empty if it did.
        own: Whether what was sent came back to this machine, as it must.
        others: Addresses of other machines that were heard.
    """

    interface: str
    refused: str
    own: bool
    others: frozenset[str]


async def listen_closely(interface: Interface, seconds: float) -> Earshot:
    """Asks who is there a few times and listens. Never raises."""
    own = {str(one) for one in interface.addresses}
    try:
        with _open(interface.addresses[0]) as (speaking, hearing):
            return await _listen(interface.name, own, speaking, hearing, seconds)
    except OSError as failed:
        return Earshot(interface.name, failed.strerror or str(failed), False, frozenset())


async def ask_directly(host: str, seconds: float) -> bool:
    """Whether an agent announces itself at this address: asked by unicast, which no network drops
    for being multicast. Never raises."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
        try:
            async with asyncio.timeout(seconds):
                asking.connect((host, PORT))
                await loop.sock_sendall(asking, question(SERVICE))
                return b"_dstack-mesh" in await loop.sock_recv(asking, 9000)
        except (OSError, TimeoutError):
            return False


def question(*names: str) -> bytes:
    """A packet that asks for services by these names."""
    packet = struct.pack(">6H", 0, 0, len(names), 0, 0, 0)
    for name in names:
        for label in name.rstrip(".").split("."):
            packet += bytes([len(label)]) + label.encode()
        packet += b"\x00" + struct.pack(">HH", _POINTER, _INTERNET)
    return packet


async def _listen(
    name: str, own: set[str], speaking: socket.socket, hearing: socket.socket, seconds: float
) -> Earshot:
    loop = asyncio.get_running_loop()
    packet, refused, echo = question(SERVICE, _ANYTHING), "", False
    others: set[str] = set()
    until = loop.time() + seconds
    while (now := loop.time()) < until:
        try:
            speaking.sendto(packet, (GROUP, PORT))
        except OSError as failed:
            refused = failed.strerror or str(failed)
        for data, source in await _packets(hearing, min(ASK_EVERY_SECONDS, until - now)):
            echo = echo or (source in own and data == packet)
            if source not in own and len(others) < MOST_OTHERS:
                others.add(source)
    return Earshot(name, refused, echo, frozenset(others))


async def _packets(hearing: socket.socket, seconds: float) -> list[tuple[bytes, str]]:
    loop, found = asyncio.get_running_loop(), list[tuple[bytes, str]]()
    try:
        async with asyncio.timeout(seconds):
            while len(found) < MOST_PACKETS:
                data, (source, _) = await loop.sock_recvfrom(hearing, 9000)
                found.append((data, source))
            await asyncio.Event().wait()
    except TimeoutError:
        pass
    return found


@contextmanager
def _open(address: IPv4Address) -> Generator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as speaking,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as hearing,
    ):
        for one in (speaking, hearing):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # From the port of the protocol, else others would answer by unicast.
        speaking.bind((str(address), PORT))
        speaking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address.packed)
        speaking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        hearing.bind(("", PORT))
        group = socket.inet_aton(GROUP) + address.packed
        hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        yield speaking, hearing
