"""Sizes as people write them: GB counts by 1000 and GiB by 1024, in any case."""

import re

MOST_BYTES = 10**18
"""More than any machine has, and less than a message can hold."""

_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,6}))?([a-z]*)\Z")

UNITS = {
    "b": 1,
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
    whole, part, unit = match[1], match[2] or "", match[3]
    if not unit:
        return 0 if not int(whole + part) else None
    if unit not in UNITS:
        return None
    size = int(whole + part) * UNITS[unit] // 10 ** len(part)
    return size if size <= MOST_BYTES else None
