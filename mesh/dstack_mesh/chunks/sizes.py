"""Sizes of chunks: a large file has many, and few different ones."""

from array import array


def shared(sizes: "array[int] | memoryview[int]") -> tuple[int, ...]:
    """The same; equal ones are one object, which saves most of their room."""
    if len(sizes) == 1:  # as of most files, where the rest costs more than it saves
        return (sizes[0],)
    seen: dict[int, int] = {}
    return tuple([seen.setdefault(size, size) for size in sizes])
