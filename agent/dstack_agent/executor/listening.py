"""Who listens on a port, from what the kernel tells. Everything here blocks: call it in a thread.

A connection from this machine goes to the socket with the most particular address, so that one
counts, and it must be a socket of the job: whoever else listens there is not reached through us.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from dstack_agent.executor import tree

_LISTEN = "0A"
_ANY = ("0.0.0.0", "::")
_TABLES = ("tcp", "tcp6")


class Listener(NamedTuple):
    """A socket that waits for connections."""

    host: str
    port: int
    inode: int


class Spot(NamedTuple):
    """Where something of a job is reached from its machine."""

    host: str
    port: int


def listeners(process: int | str = "self") -> list[Listener]:
    """Every socket that listens in the network of a process; empty if that is gone."""
    found: list[Listener] = []
    for table in _TABLES:
        with suppress(OSError):
            found += parse_table(Path(f"/proc/{process}/net/{table}").read_text())
    return found


def parse_table(text: str) -> Iterator[Listener]:
    """The listening sockets of `/proc/net/tcp` or `tcp6`."""
    for line in text.splitlines()[1:]:
        # Most lines are of connections that are over; taking them apart would cost milliseconds.
        fields = line.split() if f" {_LISTEN} " in line else ()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, _, port = fields[1].partition(":")
            yield Listener(_host(address), int(port, 16), int(fields[9]))


def answering(port: int, found: Iterable[Listener]) -> tuple[str, frozenset[int]] | None:
    """Where a connection from this machine to a port arrives, and at which sockets."""
    here = [each for each in found if each.port == port]
    for bound, dialled in (
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "::1"),
        ("::", "::1"),
    ):
        inodes = frozenset(each.inode for each in here if each.host == bound)
        if inodes:
            return dialled, inodes
    return None


def own_spot(root: int, port: int) -> Spot | None:
    """Where a port is reached on which a process below the root listens; None if none does."""
    found = answering(port, listeners())
    if found is None:
        return None
    host, inodes = found
    held: set[int] = set()
    for process in {root, *tree.descendants(root)}:
        held |= inodes & _sockets_of(process)
        if held >= inodes:
            return Spot(host, port)
    return None


def is_taken(port: int) -> bool:
    """Whether anybody on this machine listens on a port."""
    return any(each.port == port for each in listeners())


def listens_beyond_itself(process: int, port: int) -> bool:
    """Whether something in the network of a process listens on a port for others than itself."""
    hosts = {each.host for each in listeners(process) if each.port == port}
    return any(host in _ANY or not host.startswith(("127.", "::1")) for host in hosts)


def _sockets_of(process: int) -> set[int]:
    inodes: set[int] = set()
    folder = f"/proc/{process}/fd"
    with suppress(OSError):  # gone meanwhile
        for name in os.listdir(folder):  # noqa: PTH208 - the cheap one: a server has thousands
            with suppress(OSError):
                target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
    return inodes


def _host(address: str) -> str:
    """An address as the kernel writes it: words of four bytes, each the wrong way round."""
    packed = bytes.fromhex(address)
    turned = b"".join(packed[at : at + 4][::-1] for at in range(0, len(packed), 4))
    if len(turned) == 4:
        return str(IPv4Address(turned))
    full = IPv6Address(turned)
    return str(full.ipv4_mapped or full)
