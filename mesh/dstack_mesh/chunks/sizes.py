"""Sizes of chunks: a large file has many, and few different ones."""

from collections.abc import Iterable


def shared(sizes: Iterable[int]) -> tuple[int, ...]:
    """The same; equal ones are one object, which saves most of their room."""
    seen: dict[int, int] = {}
    return tuple([seen.setdefault(size, size) for size in sizes])
