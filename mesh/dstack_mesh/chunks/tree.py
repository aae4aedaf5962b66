"""Saves a folder as a manifest and chunks, and lays a manifest out as a folder.

The rules are in the modules that do it: `scanning` for what is kept of a folder, `laying` for what
may be written. Both promise that nothing outside the folder is read or written, whoever owns what
is in it.
"""

from collections.abc import Iterable
from pathlib import Path

from dstack_mesh.chunks.laying import Laid, lay_tree
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.scanning import CARE, Care, Scan, Skipped, scan
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

__all__ = [
    "CARE",
    "Care",
    "Laid",
    "Saved",
    "Scan",
    "Skipped",
    "keep",
    "lay_tree",
    "save_tree",
    "scan",
]


@frozen
class Saved:
    """A tree that is durable in the store.

    Attributes:
        skipped: What was left out.
        changed: Files that changed while they were read, each time; their content may be mixed.
        written_bytes: Bytes of chunks that were not in the store before.
    """

    digest: Digest
    files: int
    size_bytes: int
    skipped: tuple[Skipped, ...] = ()
    changed: tuple[str, ...] = ()
    written_bytes: int = 0


def save_tree(
    store: ChunkStore,
    root: Path,
    paths: Iterable[str] | None = None,
    within: Path | None = None,
    care: Care = CARE,
) -> Saved:
    """Saves a folder, or what is listed of it. Durable on return.

    Args:
        paths: Relative paths of files and links to save; None for everything. What is not there is
            left out without a word.
        within: A folder above the root that can be trusted; the way from there to the root must not
            lead through a link. Give it whenever somebody else could have made the root.
        care: For a folder that is written to meanwhile.

    Raises:
        Missing: There is no such folder.
        Refused: A link is in the way to it, or it is not below `within`.
        Busy: The disk of the store is full.
    """
    return keep(store, scan(store, root, paths, within, care=care))


def keep(store: ChunkStore, found: Scan) -> Saved:
    """Writes down what a scan, or several together, found. Durable on return."""
    manifest = Manifest(found.entries)
    digest = store.put_tree(manifest)
    return Saved(
        digest,
        manifest.files,
        manifest.size_bytes,
        tuple(sorted(found.skipped, key=lambda left: left.path)),
        tuple(sorted(found.changed)),
        found.written_bytes,
    )
