"""Graphics cards in one text: `2`, `V100`, `A100:40GB:2`, `24GB..:2`, `A100,H100:80GB`.

The parts are separated by colons and stand in any order: a size is the memory of each card, a
number how many, `nvidia` or `amd` the vendor, everything else names. Several names, separated by
commas, mean any of them.
"""

import re
from typing import NamedTuple

from dstack_scheduler.workflow.ranges import Range, parse_count, parse_range
from dstack_scheduler.workflow.sizes import parse_size

VENDORS = frozenset({"nvidia", "amd"})
MOST_NAMES = 16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}\Z")


class Cards(NamedTuple):
    """Cards as they were asked for; None is not said. `names` as in `Needs.gpu_name`."""

    number: Range | None = None
    names: str | None = None
    memory: Range | None = None


def parse_cards(text: str) -> Cards | None:
    """What a text asks for; None if it is no such text."""
    cards, vendor = Cards(), ""
    for part in (part.strip() for part in text.split(":")):
        count = parse_range(part, parse_count)
        memory = parse_range(part, parse_size)
        names = parse_names(part)
        if count is not None and cards.number is None:
            cards = cards._replace(number=count)
        elif memory is not None and cards.memory is None:
            cards = cards._replace(memory=memory)
        elif part.lower() in VENDORS and not vendor:
            vendor = part.lower()
        elif names is not None and cards.names is None and _is_model(part):
            cards = cards._replace(names=names)
        else:
            return None
    if vendor:
        names = ",".join(f"{vendor} {name}".strip() for name in (cards.names or "").split(","))
        return cards._replace(names=names)
    return cards


def _is_model(text: str) -> bool:
    """Whether a text may be a model where a number could be as well: "V100", but not "many"."""
    return any(sign.isdigit() for sign in text) and any(sign.isalpha() for sign in text)


def parse_names(text: str) -> str | None:
    """Names of models as `Needs.gpu_name` has them: "A100,H100"; None if there is none in it."""
    names = [" ".join(name.split()) for name in text.split(",")]
    if len(names) > MOST_NAMES or not all(_NAME.match(name) for name in names):
        return None
    return ",".join(dict.fromkeys(names))
