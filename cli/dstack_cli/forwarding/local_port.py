"""Which port of this machine leads to a port of a job."""

import socket

from dstack_mesh.faults import Refused

LOOPBACK = "127.0.0.1"
"""Nothing that is forwarded is for anybody else."""

NEXT = 50
"""So many ports after the job's own are tried before any free one is taken."""


def bind_local(port: int, exactly: bool) -> socket.socket:
    """A socket on this machine's loopback: at the same port if it is free, else at the next.

    Args:
        exactly: No other port will do.

    Raises:
        Refused: That port is in use.
    """
    for candidate in (port, *(() if exactly else (*range(port + 1, port + 1 + NEXT), 0))):
        if candidate < 1 << 16 and (bound := _bound(candidate)) is not None:
            return bound
    raise Refused(
        f"Port {port} of this machine is in use.",
        "The workflow or the command line names it.",
        "leave it out to get another one: APP instead of APP:LOCAL",
        "local-port-taken",
    )


def _bound(port: int) -> socket.socket | None:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((LOOPBACK, port))
        made.listen(128)
    except OSError:
        made.close()
        return None
    return made
