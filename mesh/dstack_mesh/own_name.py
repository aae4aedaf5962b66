"""What people call this machine, unless a person says otherwise."""

import socket
from collections.abc import Mapping

LONGEST_NAME = 63


def own_name(environ: Mapping[str, str]) -> str:
    """`DSTACK_NAME`, else the machine's host name."""
    return tidy(environ.get("DSTACK_NAME", "")) or tidy(socket.gethostname()) or "unnamed"


def tidy(name: str) -> str:
    """The name without what no name has; empty if nothing is left."""
    kept = "".join(letter for letter in name if letter.isprintable() and not letter.isspace())
    return kept[:LONGEST_NAME]
