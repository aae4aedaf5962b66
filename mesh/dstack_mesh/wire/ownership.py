"""What tells the owner on the local socket from a job of somebody else: a secret of the home.

The kernel lets every process of the user connect, a walled one too: Landlock does not stand before
sockets in the file system. Walls do hide the home's files, so whoever read one is no walled job.
The secret is part of the user agent of a channel, which every call carries without further work;
it is in no argument, no environment and no log.
"""

import os
import re
from hmac import compare_digest
from pathlib import Path
from typing import Any

import grpc

from dstack_mesh.durable import write_durably

_BEGIN = "owner/"
_SAID = re.compile(re.escape(_BEGIN) + r"([0-9a-f]{64})(?: |$)")

_OPEN: set[str] = set()
"""The secrets of the sockets that this process serves."""


def open_to(socket: Path) -> None:
    """Has this process know the owner of a socket's home, whose secret is made if need be.

    It outlives the agent, so that commands go on when it is started again.
    """
    secret = secret_of(socket)
    if not secret:
        secret = os.urandom(32).hex()
        write_durably(_file(socket), secret.encode())
    _OPEN.add(secret)


def shut_to(socket: Path) -> None:
    """Forgets her. Idempotent."""
    _OPEN.discard(secret_of(socket))


def secret_of(socket: Path) -> str:
    """The secret of a socket's home; empty if no agent ever ran in it, or to a walled job."""
    try:
        held = _file(socket).read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    return held if _SAID.fullmatch(_BEGIN + held) else ""


def said_by(secret: str) -> str:
    """What a channel's user agent ends with; empty without a secret."""
    return f" {_BEGIN}{secret}" if secret else ""


def is_owners(context: "grpc.aio.ServicerContext[Any, Any]") -> bool:
    """Whether a call carries the secret of a socket that this process serves."""
    for key, value in context.invocation_metadata() or ():
        found = _SAID.search(str(value)) if key == "user-agent" else None
        if found is not None:
            return any([compare_digest(found[1], one) for one in _OPEN])
    return False


def _file(socket: Path) -> Path:
    return socket.with_name("owner")
