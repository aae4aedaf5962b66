"""Sizes as people write them: GB counts by 1000 and GiB by 1024, in any case."""

import re

from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import Node, shorten

_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([a-z]*)\Z")

UNITS = {
    "k": 10**3,
    "kb": 10**3,
    "m": 10**6,
    "mb": 10**6,
    "g": 10**9,
    "gb": 10**9,
    "t": 10**12,
    "tb": 10**12,
    "ki": 2**10,
    "kib": 2**10,
    "mi": 2**20,
    "mib": 2**20,
    "gi": 2**30,
    "gib": 2**30,
    "ti": 2**40,
    "tib": 2**40,
}


def parse_size(text: str) -> int | None:
    """Bytes of "16GB", "512 MiB" or "0"; None if it is no size."""
    match = _SIZE.match("".join(text.split()).lower())
    if not match:
        return None
    number, unit = match.groups()
    if not unit:
        return 0 if float(number) == 0 else None
    return int(float(number) * UNITS[unit]) if unit in UNITS else None


def read_size(node: Node, scope: Scope) -> int | None:
    """Bytes; None if it is no size, or a variable left it empty."""
    text = scope.text(node)
    if text is None or not text.strip():
        return None
    size = parse_size(text)
    if size is None:
        scope.complain(
            node,
            Code.BAD_SIZE,
            f'"{scope.key}" must be a size with a unit, not "{shorten(text)}".',
            "write a number and MB, GB, MiB or GiB, as 16GB",
        )
    return size
