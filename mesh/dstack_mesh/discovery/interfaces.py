"""Which network interfaces lead to other machines.

A machine with Docker has many that do not: announcing docker0's address would make every other
machine with Docker dial itself.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address

_LEADS_NOWHERE = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|virbr\d+(-nic)?|cni\d*|cni-.*|flannel.*|cali.*"
    r"|podman\d+|lxcbr\d+|lxdbr\d+|vmnet\d+|dummy\d+"
)


@frozen
class Interface:
    """A network interface. `bridged`: it is a port of a bridge, which has the address instead."""

    name: str
    up: bool
    loopback: bool
    bridged: bool
    addresses: tuple[IPv4Address, ...]


def leading_outside(
    interfaces: Iterable[Interface], loopback_if_alone: bool = False
) -> tuple[Interface, ...]:
    """Those through which other machines can be reached, in the given order.

    A veth is judged by what it does, not by its name: on a Docker host it is a port of a bridge
    and has no address; inside a container or a network namespace it is the way out.

    Args:
        interfaces: What the machine has.
        loopback_if_alone: Offer loopback on a machine without any network.
    """
    usable = [one for one in interfaces if one.up and not one.bridged and one.addresses]
    outside = tuple(
        one for one in usable if not one.loopback and not _LEADS_NOWHERE.fullmatch(one.name)
    )
    if outside or not loopback_if_alone:
        return outside
    return tuple(one for one in usable if one.loopback)


def addresses_of(interfaces: Iterable[Interface]) -> tuple[IPv4Address, ...]:
    """Their addresses, link-local ones (169.254…) last, since they work only beside a cable."""
    found = (address for one in interfaces for address in one.addresses)
    return tuple(sorted(dict.fromkeys(found), key=lambda address: address.is_link_local))


def own_addresses(port: int) -> tuple[Address, ...]:
    """Where others can dial this machine now, as HOST:PORT."""
    found = addresses_of(leading_outside(read_interfaces(), loopback_if_alone=True))
    return tuple(Address(f"{address}:{port}") for address in found)


def read_interfaces() -> tuple[Interface, ...]:
    """The machine's interfaces as they are now; about a millisecond."""
    import socket
    from pathlib import Path

    import psutil  # not for commands that only want the types

    states = psutil.net_if_stats()
    return tuple(
        Interface(
            name=name,
            up=name in states and states[name].isup,
            loopback=name in states and "loopback" in states[name].flags.split(","),
            bridged=Path("/sys/class/net", name, "brport").exists(),
            addresses=tuple(IPv4Address(a.address) for a in found if a.family == socket.AF_INET),
        )
        for name, found in psutil.net_if_addrs().items()
    )
