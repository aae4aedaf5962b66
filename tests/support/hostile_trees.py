"""Makes lists of files at random, most of them hostile in some way."""

import random
import struct
from collections.abc import Sequence

from dstack_mesh.chunks.manifest import MAGIC
from support.hostile_manifests import folder_bytes, link_bytes

NAMES = (
    "a",
    "b",
    "c",
    "d",
    "link",
    "..",
    ".",
    "",
    "...",
    "..a",
    "a\\b",
    "C:",
    "~",
    "e\u0301",
    "\0",
)
"""Few, so that they meet each other and what lies in the way."""

_WEIGHTS = (20, 20, 20, 10, 10, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1)


def hostile_list(dice: random.Random, chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """An encoding, perhaps a valid one.

    Args:
        chunks: Digests and sizes that files may name.
    """
    entries = {_path(dice): dice.randrange(8) for _ in range(dice.randint(1, 6))}
    paths = list(entries)
    if dice.random() < 0.8:
        paths.sort(key=lambda path: path.replace("/", "\0"))
    encoded = MAGIC + b"".join(_entry(dice, path, entries[path], chunks) for path in paths)
    return _damaged(dice, encoded) if dice.random() < 0.2 else encoded


def _path(dice: random.Random) -> str:
    parts = dice.choices(NAMES, _WEIGHTS, k=dice.choice((1, 1, 2, 2, 3, 4)))
    return ("/" if dice.random() < 0.02 else "") + "/".join(parts)


def _entry(dice: random.Random, path: str, kind: int, chunks: Sequence[tuple[bytes, int]]) -> bytes:
    if kind < 3:
        return link_bytes(path, _target(dice))
    if kind == 3:
        return folder_bytes(path)
    used = dice.choices(chunks, k=dice.randrange(3))
    sizes = [size if dice.random() < 0.99 else dice.getrandbits(32) for _, size in used]
    raw = path.encode()
    head = struct.pack("<BH", dice.randrange(2), len(raw)) + raw
    digests = b"".join(digest for digest, _ in used)
    return head + struct.pack(f"<I{len(sizes)}I", len(sizes), *sizes) + digests


def _target(dice: random.Random) -> str:
    ups = "../" * dice.choice((0, 0, 1, 1, 2, 3))
    return ("/" if dice.random() < 0.03 else "") + ups + _path(dice)


def _damaged(dice: random.Random, encoded: bytes) -> bytes:
    raw = bytearray(encoded)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(raw))
        match dice.randrange(3):
            case 0:
                raw[at] = dice.getrandbits(8)
            case 1:
                del raw[at : at + dice.randint(1, 8)]
            case _:
                raw[at:at] = dice.randbytes(dice.randint(1, 8))
        if not raw:
            break
    return bytes(raw)
