"""What of a tree is to be laid, and where."""

from dataclasses import replace
from pathlib import Path

from dstack_mesh.chunks.folders import split
from dstack_mesh.chunks.manifest import Entry, FolderEntry, LinkEntry, Manifest
from dstack_mesh.chunks.paths import link_fault
from dstack_mesh.faults import Missing


def choose(manifest: Manifest, prefix: str, target: Path) -> tuple[Path, Path, list[Entry]]:
    """The folder to write in, where the result is, and entries named from that folder."""
    if not prefix:
        return target, target, list(manifest.entries)
    for entry in manifest.entries:
        if entry.path == prefix and not isinstance(entry, FolderEntry):
            path = target / split(prefix)[1] if target.is_dir() else target
            return path.parent, path, [replace(entry, path=path.name)]
    below = f"{prefix}/"
    chosen = [
        replace(entry, path=entry.path.removeprefix(below))
        for entry in manifest.entries
        if entry.path.startswith(below)
    ]
    if not chosen and FolderEntry(prefix) not in manifest.entries and manifest.entries:
        raise Missing(f'There is no "{prefix}" in it.', "", "List what there is with `dstack ls`.")
    return target, target, chosen


def leads_out(entry: Entry) -> bool:
    """Whether it is a link that stayed inside the whole tree only."""
    return isinstance(entry, LinkEntry) and bool(link_fault(entry.path, entry.target))
