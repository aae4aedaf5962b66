"""Ports that nobody listens on."""

import contextlib
import socket
from collections.abc import Sequence


def free_ports(wanted: Sequence[int]) -> tuple[int, ...]:
    """Ports for a job: those that were named, and for each 0 one that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for port in wanted if not port]
        for probe in probes:
            probe.bind(("", 0))
        free = iter([int(probe.getsockname()[1]) for probe in probes])
        return tuple(port or next(free) for port in wanted)
