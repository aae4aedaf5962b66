"""Where each chunk of some files is used first, in little memory: 4 GiB have 220,000 chunks."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from dstack_mesh.ids import Digest

T = TypeVar("T")

_WANTED, _CLAIMED, _FOUND, _HAD = 0, 1, 2, 3


class Use(NamedTuple, Generic[T]):
    """Where a chunk belongs. A tuple, which costs less to make."""

    part: T
    offset: int
    size: int


class Uses(Generic[T]):
    """Chunks in the order in which they were added, each once. `T` is what a file is called."""

    def __init__(self) -> None:
        self._numbers: dict[Digest, int] = {}
        self._parts: list[T] = []
        self._part_of, self._offsets, self._sizes = array("I"), array("Q"), array("I")
        self._states = bytearray()

    def add(self, digest: Digest, part: T, offset: int, size: int) -> bool:
        """Whether it was not used before. All chunks of one part come one after the other."""
        number = len(self._states)
        if self._numbers.setdefault(digest, number) != number:
            return False
        if not self._parts or self._parts[-1] is not part:
            self._parts.append(part)
        self._part_of.append(len(self._parts) - 1)
        self._offsets.append(offset)
        self._sizes.append(size)
        self._states.append(_WANTED)
        return True

    def find(self, digest: Digest) -> Use[T] | None:
        """Its first use."""
        return self.of(digest) if digest in self._numbers else None

    def of(self, digest: Digest) -> Use[T]:
        """The first use of one of them."""
        number = self._numbers[digest]
        part = self._parts[self._part_of[number]]
        return Use(part, self._offsets[number], self._sizes[number])

    def size(self, digest: Digest) -> int:
        """Bytes of one of them."""
        return self._sizes[self._numbers[digest]]

    def claim(self, digest: Digest, size: int) -> bool:
        """Whether a chunk of this size is wanted; after that it is claimed."""
        number = self._numbers.get(digest)
        if number is None or self._states[number] != _WANTED or self._sizes[number] != size:
            return False
        self._states[number] = _CLAIMED
        return True

    def have(self, digests: Iterable[Digest]) -> None:
        """Some are not wanted any more. What was claimed and did not come is wanted again."""
        for digest in digests:
            self._states[self._numbers[digest]] = _HAD

    def found(self, digest: Digest) -> None:
        """One is not wanted any more: it was written where it belongs before."""
        self._states[self._numbers[digest]] = _FOUND

    @property
    def wanted(self) -> list[Digest]:
        """Those that nobody has brought."""
        states = self._states
        return [digest for digest, number in self._numbers.items() if states[number] < _FOUND]

    @property
    def perhaps_written(self) -> Iterator[Digest]:
        """Those that are nowhere else."""
        states = self._states
        return (digest for digest, number in self._numbers.items() if states[number] != _HAD)


def runs(uses: Sequence[Use[T]], data: memoryview) -> Iterator[tuple[T, int, memoryview]]:
    """Pieces of chunks side by side, as long as they lie so in one file."""
    part: T | None = None
    offset = begin = at = 0
    for use in uses:
        if use.part is not part or use.offset != offset + (at - begin):
            if part:
                yield part, offset, data[begin:at]
            part, offset, begin = use.part, use.offset, at
        at += use.size
    if part:
        yield part, offset, data[begin:at]
