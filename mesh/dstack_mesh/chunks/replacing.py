"""Lays a newer version of a tree over an older one, where somebody else may have written since.

Only what differs between the two is touched: files and links that are new or changed are made anew,
those that are gone are removed. Folders stay, also empty ones, unless a file takes their place.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.laying import lay_manifest
from dstack_mesh.chunks.manifest import Entry, FolderEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.frozen import frozen


@frozen
class Replaced:
    """How many files and links were made anew, and how many are gone."""

    made: int = 0
    removed: int = 0


def replace_tree(
    store: ChunkStore,
    before: Iterable[Entry],
    after: Iterable[Entry],
    target: Path,
    within: Path,
) -> Replaced:
    """Makes of one version of a tree the other one.

    Args:
        within: A folder above the target that can be trusted.

    Raises:
        MeshError: As `lay_tree` does; then some of it may be there.
    """
    old = {entry.path: entry for entry in before}
    new = {entry.path: entry for entry in after}
    made = [entry for path, entry in new.items() if old.get(path) != entry]
    files = {entry.path for entry in made if not isinstance(entry, FolderEntry)}
    gone = [
        path
        for path, entry in old.items()
        if path not in new and not isinstance(entry, FolderEntry)
    ]
    with Folders(target, within) as folders:
        for path in gone:
            _remove(path, folders)
        _make_way(files, old, folders)
    lay_manifest(store, Manifest(made), target, merge=True, within=within)
    return Replaced(len(files), len(gone))


def _remove(path: str, folders: Folders) -> None:
    folder, name = split(path)
    with suppress(OSError):  # it is gone, or something else has its name
        os.unlink(name, dir_fd=folders.enter(folder))


def _make_way(files: set[str], old: Iterable[str], folders: Folders) -> None:
    """Removes empty folders of the older version where the newer one has files."""
    parents = {above for path in old for above in (path, *_above(path))}
    for path in sorted(parents, reverse=True):  # what is in a folder before the folder
        if files & {path, *_above(path)}:
            folder, name = split(path)
            with suppress(OSError):  # it is a file, or has something in it
                os.rmdir(name, dir_fd=folders.enter(folder))


def _above(path: str) -> Iterator[str]:
    while path := split(path)[0]:
        yield path
