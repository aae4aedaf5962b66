"""Which network interfaces lead to other machines.

A machine with Docker has many that do not: announcing docker0's address would make every other
machine with Docker dial itself.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address

_LEADS_NOWHERE = re.compile(
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|virbr\d+(-nic)?|cni\d*|cni-.*|flannel.*|cali.*"
    r"|podman\d+|lxcbr\d+|lxdbr\d+|vmnet\d+|dummy\d+"
)


@frozen
class Interface:
    """A network interface.

    Attributes:
        bridged: It is a port of a bridge, which has the address instead.
        point_to_point: It has one other end, as a VPN's has.
        multicast: The kernel sends to groups on it.
        networks: What is reached there without a router, one for each address.
    """

    name: str
    up: bool
    loopback: bool
    bridged: bool
    addresses: tuple[IPv4Address, ...]
    point_to_point: bool = False
    multicast: bool = True
    networks: tuple[IPv4Network, ...] = ()

    def reaches(self, address: IPv4Address) -> bool:
        """Whether an address is on this interface's network, no router in between."""
        return any(address in network for network in self.networks)


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
    outside = tuple(one for one in usable if not one.loopback and not leads_nowhere(one.name))
    if outside or not loopback_if_alone:
        return outside
    return tuple(one for one in usable if one.loopback)


def multicast_interfaces(
    interfaces: Iterable[Interface], loopback_if_alone: bool = False
) -> tuple[Interface, ...]:
    """Those on which it makes sense to announce: no VPN, which has nobody in earshot.

    A machine whose only way out is a VPN is told of nowhere; its address there still is a hint.
    """
    outside = leading_outside(interfaces, loopback_if_alone)
    return tuple(one for one in outside if one.multicast and not one.point_to_point)


def leads_nowhere(name: str) -> bool:
    """Whether the name is that of a bridge for containers or virtual machines."""
    return _LEADS_NOWHERE.fullmatch(name) is not None


def addresses_of(interfaces: Iterable[Interface]) -> tuple[IPv4Address, ...]:
    """Their addresses. A VPN's come after those of networks, and link-local ones (169.254…) last,
    since they work only beside a cable."""
    found = {
        address: (address.is_link_local, one.point_to_point)
        for one in interfaces
        for address in one.addresses
    }
    return tuple(sorted(found, key=found.__getitem__))


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
        _interface(
            name,
            states[name].isup if name in states else False,
            frozenset(states[name].flags.split(",") if name in states else ()),
            Path("/sys/class/net", name, "brport").exists(),
            [(one.address, one.netmask) for one in found if one.family == socket.AF_INET],
        )
        for name, found in psutil.net_if_addrs().items()
    )


def _interface(
    name: str, up: bool, flags: frozenset[str], bridged: bool, found: list[tuple[str, str | None]]
) -> Interface:
    given = [IPv4Interface(f"{address}/{netmask or 32}") for address, netmask in found]
    loopback = "loopback" in flags
    return Interface(
        name=name,
        up=up,
        loopback=loopback,
        bridged=bridged,
        addresses=tuple(one.ip for one in given),
        point_to_point="pointopoint" in flags,
        # Loopback says that it does not, and does.
        multicast=loopback or "multicast" in flags,
        networks=tuple(one.network for one in given),
    )
