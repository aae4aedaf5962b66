"""What a remote must be able to do with objects, and who has trees: the two borders of this room.

`ObjectStore` is the border to a service that keeps objects by key, as S3; a fake of it lives in the
tests and passes the same contract. `TreeSource` is the border to whatever has trees, a remote or an
agent: a command that reads artifacts does not know which of them it reads from.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.ids import Digest

if TYPE_CHECKING:
    from dstack_mesh.chunks.fetched import Fetched

NO_OBJECT = "no-object"
"""Code of the Missing that says that there is nothing of that key."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a listing shows it."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """Objects by key in one place. Every method blocks, and any thread may call it.

    Every method raises a `MeshError`: `Unreachable` if the service does not answer after it was
    asked several times, `Forbidden` if it does not take the credentials, `Missing` if the place
    itself does not exist.
    """

    @property
    def where(self) -> str:
        """The place, for people and for telling places apart: "s3://bucket/folder at HOST"."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Writes an object, whether or not there is one."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Writes an object where there is none; False if there is one, which stays as it is."""
        ...

    def put_parts(self, key: str, parts: Iterable[bytes]) -> None:
        """Writes an object from pieces of at least 5 MiB, the last one excepted.

        Nothing is seen of it before it is whole; if a piece fails nothing is left behind.
        """
        ...

    def get(self, key: str, begin: int = 0, length: int | None = None) -> bytes:
        """An object or a part of it; fewer bytes if it is shorter.

        Raises:
            Missing: There is none; the code is `no-object`.
        """
        ...

    def listing(self, prefix: str) -> Iterator[Stored]:
        """Objects whose keys begin with the prefix, in the order of their keys."""
        ...

    def delete(self, key: str) -> None:
        """Removes an object, if there is one."""
        ...

    def sweep(self, prefix: str, before: datetime) -> int:
        """Gives up what `put_parts` of a process that died left behind; returns how many."""
        ...


class TreeSource(Protocol):
    """Whatever has trees: an agent, or a remote."""

    async def fetch_tree(self, digest: Digest) -> int:
        """Brings a tree to our store, where it is durable on return; returns bytes received."""
        ...

    async def fetch_manifest(self, digest: Digest) -> Manifest:
        """What a tree holds. It is not kept."""
        ...

    async def fetch_into(
        self,
        digest: Digest,
        target: Path,
        prefix: str = "",
        on_bytes: Callable[[int], None] | None = None,
    ) -> "Fetched":
        """Brings a tree, or what is below `prefix`, into files; durable on return."""
        ...
