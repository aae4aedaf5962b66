"""What people call this machine, unless a person says otherwise; and names that others send."""

import socket
from collections.abc import Mapping

LONGEST_NAME = 63


def own_name(environ: Mapping[str, str]) -> str:
    """`DSTACK_NAME`, else the machine's host name."""
    return tidy(environ.get("DSTACK_NAME", "")) or tidy(socket.gethostname()) or "unnamed"


def tidy(name: str) -> str:
    """The name without what no name has; empty if nothing is left."""
    return "".join(printable(name).split())[:LONGEST_NAME]


def printable(text: str, most: int | None = None) -> str:
    """What others wrote, as terminals and logs may have it: no control characters, no novels."""
    return "".join(letter for letter in text[:most] if letter.isprintable())
