"""Finds out who else uses a name for a file that an input needs for a folder, or the other way.

Sources are laid in declared order, and of one file the later one wins. A file and a folder of one
name do not merge: the job is refused, and both sources are named.
"""

from collections.abc import Iterable
from pathlib import PurePath

from dstack_mesh.chunks.manifest import FolderEntry, Manifest
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen


@frozen
class Part:
    """A tree that goes into a job's folders.

    Attributes:
        what: How people call it.
        place: Where it is laid.
    """

    what: str
    place: PurePath
    manifest: Manifest


def clash(part: Part, earlier: Iterable[Part]) -> Refused | None:
    """The error that names the first two that do not fit together; None if all do."""
    leaves, folders = _names(part)
    for other in earlier:
        other_leaves, other_folders = _names(other)
        for name in sorted((leaves & other_folders) | (folders & other_leaves)):
            kinds = ("file", "folder") if name in leaves else ("folder", "file")
            return Refused(
                f"{part.what} and {other.what} do not fit together.",
                f"{PurePath(name).name!r} is a {kinds[0]} in the first and a {kinds[1]} in the "
                f"second, both at {name}.",
                "Give one of them another path.",
                "inputs-clash",
            )
    return None


def _names(part: Part) -> tuple[set[str], set[str]]:
    """Files and links, and folders, as absolute names."""
    leaves: set[str] = set()
    folders: set[str] = {str(part.place), *map(str, part.place.parents)}
    for entry in part.manifest.entries:
        path = part.place / entry.path
        above = path if isinstance(entry, FolderEntry) else path.parent
        if above is not path:
            leaves.add(str(path))
        while (name := str(above)) not in folders:
            folders.add(name)
            above = above.parent
    return leaves, folders
