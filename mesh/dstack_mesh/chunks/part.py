"""A file on its way to disk."""

from dataclasses import dataclass, field

from dstack_mesh.chunks.manifest import FileEntry
from dstack_mesh.ids import Digest


@dataclass(slots=True)
class Part:
    """A file that is written under the name `draft` until it is whole; then `draft` is "".

    Attributes:
        blank: Nothing is written into it: it is empty, or a hole.
    """

    entry: FileEntry
    missing_bytes: int
    direct: bool
    blank: bool = False
    draft: str = ""
    fd: int = -1
    unsynced_bytes: int = 0
    copies: list[tuple[int, Digest]] = field(default_factory=list[tuple[int, Digest]])
