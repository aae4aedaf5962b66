"""What bytes are called: their BLAKE3."""

from collections.abc import Iterator

from blake3 import blake3

from dstack_mesh.ids import Digest

DIGEST_BYTES = 32


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """The name of some bytes. Releases the interpreter lock for all but the smallest."""
    return Digest(blake3(data).digest())


def split_digests(joined: bytes) -> list[Digest]:
    """Digests that lie one after the other, as they travel. The length must be a multiple of 32."""
    return [Digest(joined[at : at + DIGEST_BYTES]) for at in range(0, len(joined), DIGEST_BYTES)]


def each_digest(joined: bytes) -> Iterator[Digest]:
    """The same, one at a time: of a large file they take five times the room of its list."""
    return (Digest(joined[at : at + DIGEST_BYTES]) for at in range(0, len(joined), DIGEST_BYTES))
