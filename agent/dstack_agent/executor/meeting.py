"""Where the containers of a gang meet: at one port of the master's machine, and nowhere else.

A container has a network of its own, which leads out and into which nothing leads. So the engine
leads the port that the master's agent named when it held for the master to that one container, and
the others reach it as they reach the rest of the world. Where an agent is reached from its own
machine alone, all nodes are on that: then they meet at the gateway of the containers' network,
which no other machine reaches.
"""

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import replace

from dstack_agent.executor.nodes import node_names
from dstack_mesh.frozen import frozen
from dstack_scheduler.job import JobSpec, Node

EVERY_ADDRESS = "0.0.0.0"
"""What the master's own container is told instead of the machine's address, at which nothing in a
container can listen: whoever listens there is reached, and whoever dials it reaches itself. Its
host name would not do, which is one of each of its networks."""


@frozen
class Meeting:
    """What one container of a gang needs.

    Attributes:
        node: With the master's address as this container has it.
        published: Address of the machine at which its engine leads the port to it; empty for none.
    """

    node: Node
    published: str = ""

    @property
    def port(self) -> int:
        return int(self.node.master.rpartition(":")[2])


def meet(node: Node, gateway: str, is_own: Callable[[str], bool] | None = None) -> Meeting:
    """How the container of a node meets those of the others.

    Args:
        gateway: Of the containers' network.
        is_own: Whether the machine has an address itself, and not what leads to it from outside.
    """
    host, _, port = node.master.rpartition(":")
    host = gateway if is_loopback(host) else host.strip("[]")
    if node.rank:
        return Meeting(_told(node, host, port))
    published = host if (is_own or has_address)(host) else EVERY_ADDRESS
    return Meeting(_told(node, EVERY_ADDRESS, port), published)


def told(spec: JobSpec, node: Node, gpus: int) -> dict[str, str]:
    """What a container is told of the other nodes, but for what its workflow says itself."""
    names = node_names(replace(spec, node=node), gpus)
    return {name: value for name, value in names.items() if name not in spec.env}


def is_loopback(host: str) -> bool:
    """Whether an address is one that a machine has for itself alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def has_address(host: str) -> bool:
    """Whether something on this machine can listen at an address."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True


def _told(node: Node, host: str, port: str) -> Node:
    return Node(node.rank, node.count, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
