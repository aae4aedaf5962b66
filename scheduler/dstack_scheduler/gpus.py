"""Names and sizes of graphics cards, as people write them and as drivers report them.

People write "v100"; drivers say "Tesla V100-SXM2-16GB". A card is wanted by words: every word must
be in the card's name as a whole token, so "A10" is neither an A100 nor an A10G, while "4090" is an
"NVIDIA GeForce RTX 4090". Case, punctuation and vendor words do not count.
"""

import re
from fractions import Fraction
from functools import lru_cache

from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen

MEMORY_PERCENT = 95
"""A card fits from this part of the memory that was asked for: cards with ECC report a little less
than their nominal size. Smaller lets an 11 GB card pass for 12 GB even more easily."""

MAX_DECLARED = 64
"""Cards that one declaration may count."""

_VENDOR = frozenset({"nvidia", "tesla", "geforce", "quadro", "amd", "radeon", "corporation"})
_TOKEN = re.compile(r"[a-z0-9]+")
_SIZE_TOKEN = re.compile(r"\d+gb")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE)
_UNITS = {
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_MIG = "mig"


@frozen
class DeclaredGpu:
    """Cards that somebody declared, as "V100:16GB:2"."""

    name: str
    memory_bytes: int
    count: int = 1


@lru_cache(maxsize=256)  # an agent asks it of the same few cards for every job
def name_fits(wanted: str, card: str) -> bool:
    """Whether a card of this name is what was asked for, or one of what commas separate.

    Asking for no name fits every card.
    """
    tokens = _card_tokens(card)
    return any(
        all(_has(word, tokens) for word in _significant(_tokens(name)))
        for name in wanted.split(",")
    )


def memory_fits(wanted_bytes: int, card_bytes: int, most_bytes: int = 0) -> bool:
    """Whether a card is large enough, a few percent under nominal included, and not too large."""
    if most_bytes and nominal_gb(card_bytes) * 10**9 > most_bytes:
        return False
    return 100 * card_bytes >= MEMORY_PERCENT * wanted_bytes


def nominal_gb(memory_bytes: int) -> int:
    """The whole number that is on the box: 24 for 24,576 MiB, 16 for exactly 16 GB.

    A card always fits who asks for this size.
    """
    if memory_bytes % 10**9 == 0:
        return memory_bytes // 10**9
    near = round(memory_bytes / 2**30)
    return near if memory_fits(near * 10**9, memory_bytes) else memory_bytes // 2**30


def parse_declared(text: str) -> DeclaredGpu:
    """Reads "NAME:MEMORY" or "NAME:MEMORY:COUNT", as "V100:16GB:2".

    Raises:
        Invalid: It is written otherwise; the message says how.
    """
    parts = [part.strip() for part in text.split(":")]
    if len(parts) not in (2, 3) or not _tokens(parts[0]):
        raise _undeclarable(text, "it must be NAME:MEMORY or NAME:MEMORY:COUNT")
    memory_bytes = _size_bytes(parts[1])
    if not memory_bytes:
        raise _undeclarable(text, f'"{parts[1]}" is not a size')
    count = parts[2] if len(parts) == 3 else "1"
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MAX_DECLARED):
        raise _undeclarable(text, f'"{count}" is not a number from 1 to {MAX_DECLARED}')
    return DeclaredGpu(parts[0], memory_bytes, int(count))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _significant(words: list[str]) -> list[str]:
    """The words without the vendor's; "Tesla" alone is kept, "NVIDIA" alone asks for nothing."""
    kept = [word for word in words if word not in _VENDOR]
    return kept or [word for word in words if word != "nvidia"]


def _card_tokens(card: str) -> list[str]:
    """Tokens of a card; a MIG slice does not have the memory that its parent's name boasts of."""
    tokens = _tokens(card)
    if _MIG not in tokens:
        return tokens
    cut = tokens.index(_MIG)
    return [token for token in tokens[:cut] if not _SIZE_TOKEN.fullmatch(token)] + tokens[cut:]


def _has(word: str, tokens: list[str]) -> bool:
    """Whether a word is a token, or neighbouring tokens written as one ("rtx4090", "3080ti")."""
    for start in range(len(tokens)):
        joined = ""
        for token in tokens[start:]:
            joined += token
            if joined == word:
                return True
            if len(joined) >= len(word):
                break
    return False


def _size_bytes(text: str) -> int:
    """Bytes of "16GB" (decimal) or "16GiB" (binary); 0 for what is no size."""
    found = _SIZE.fullmatch(text)
    if found is None or len(text) > 20:
        return 0
    unit = (found[2] or "b").lower()
    return int(Fraction(found[1]) * _UNITS[unit if unit == "b" else unit.removesuffix("b")])


def _undeclarable(text: str, why: str) -> Invalid:
    return Invalid(f'"{text}" declares no GPU: {why}.', hint='--gpu "V100:16GB:2"')
