"""What answers at a TCP port: somebody, a refusal, or nothing; and whether the machine is there."""

import asyncio
import errno
import socket
from enum import Enum
from ipaddress import ip_address
from pathlib import Path

KNOCK_SECONDS = 1.6
"""A dropped packet is sent again after one second; only then it shows whether we dropped it."""

ARP_TABLE = Path("/proc/net/arp")
COUNTERS = Path("/proc/net/netstat")
_COMPLETE = 0x2


class Door(Enum):
    """How a port behaves, and the word for it."""

    OPEN = "open"
    REFUSED = "refused"
    DROPPED = "dropped"
    BLOCKED_HERE = "blocked by this machine"
    FORBIDDEN = "forbidden by a firewall"
    ABSENT = "no machine there"
    NO_WAY = "no way there"
    NO_NAME = "no such name"


async def knock(address: str) -> Door:
    """Tries to connect to HOST:PORT, at most `KNOCK_SECONDS`. Never raises."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    before = _failed_to_send()
    try:
        async with asyncio.timeout(KNOCK_SECONDS):
            found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            family, _, _, _, where = found[0]
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as door:
                await loop.sock_connect(door, where)
                return Door.OPEN
    except (socket.gaierror, ValueError, OverflowError):  # "my..host" is no name that can be asked
        return Door.NO_NAME
    except TimeoutError:
        if _failed_to_send() > before:
            return Door.BLOCKED_HERE
        return Door.ABSENT if _neighbour(host) is False else Door.DROPPED
    except OSError as failed:
        return _door_of(failed, host)


def _door_of(failed: OSError, host: str) -> Door:
    match failed.errno:
        case errno.ECONNREFUSED | errno.ECONNRESET:
            return Door.REFUSED
        case errno.EPERM | errno.EACCES:
            return Door.BLOCKED_HERE
        case errno.EHOSTUNREACH:
            # Of a machine that answers ARP this is a firewall's message.
            return Door.FORBIDDEN if _neighbour(host) else Door.ABSENT
        case errno.ECONNABORTED | errno.EPROTO:
            return Door.FORBIDDEN
        case _:
            return Door.NO_WAY


def _neighbour(host: str) -> bool | None:
    """Whether a machine of our own network answers to this address; None behind a router."""
    try:
        ip_address(host)
        rows = [line.split() for line in ARP_TABLE.read_text().splitlines()[1:]]
    except (ValueError, OSError):
        return None
    flags = [int(row[2], 16) for row in rows if len(row) > 3 and row[0] == host]
    return any(flag & _COMPLETE for flag in flags) if flags else None


def _failed_to_send() -> int:
    """How often the kernel could not send a segment again: a firewall of this machine drops it."""
    try:
        names, values = (
            line.split() for line in COUNTERS.read_text().splitlines() if line.startswith("TcpExt")
        )
        return int(values[names.index("TCPRetransFail")])
    except (OSError, ValueError):
        return 0
