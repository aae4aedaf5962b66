"""Lays a manifest out as a folder.

Rules: every name is opened beneath a directory handle and never through a link; a file is made
anew, so nothing is written through what is there; holes stay holes; modes are 0644 and 0755; links
come last. Nothing is written at all if the manifest or a chunk of it is missing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from dstack_mesh.chunks.drafts import draft_name
from dstack_mesh.chunks.folders import Folders, split
from dstack_mesh.chunks.holes import is_hole
from dstack_mesh.chunks.manifest import FileEntry, FolderEntry, LinkEntry, Manifest
from dstack_mesh.chunks.room import check_room, trouble
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Missing, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen
class Laid:
    """What was written.

    Attributes:
        conflicts: Paths where something was there already and was replaced.
    """

    files: int
    size_bytes: int
    conflicts: tuple[str, ...] = ()


def lay_tree(
    store: ChunkStore,
    digest: Digest,
    target: Path,
    merge: bool = False,
    within: Path | None = None,
    wanted: Callable[[], bool] = lambda: True,
) -> Laid:
    """Lays a tree out in a folder, which is made if it is not there. Not synced to disk.

    Args:
        merge: Whether the folder may have something in it. Files and links that are there are
            replaced
            and named; a folder is never replaced.
        within: A folder above the target that can be trusted; the way from there must not lead
            through a link. Give it whenever somebody else could have made what lies between.
        wanted: Asked before each file; where it says no, the rest is not laid.

    Raises:
        Missing: The manifest or a chunk is not here.
        Damaged: A chunk is damaged.
        Refused: The folder is not empty, a folder is where a file belongs or the other way round,
            or the tree is not wanted any more.
        Busy: The disk is full.
    """
    return lay_manifest(store, store.get_manifest(digest), target, merge, within, wanted)


def lay_manifest(
    store: ChunkStore,
    manifest: Manifest,
    target: Path,
    merge: bool = False,
    within: Path | None = None,
    wanted: Callable[[], bool] = lambda: True,
) -> Laid:
    """The same of a tree whose list of files is not in the store."""
    lacking = store.missing(manifest.chunk_digests())
    if lacking:
        raise Missing("Bytes of this tree are not here.", f"{len(lacking):,} chunks are missing.")
    try:
        with _open_target(target, merge, within) as folders:
            check_room(target, manifest.room_bytes)
            return _lay(store, manifest, folders, wanted)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise Refused(
            f"The files do not fit into {target}.",
            f"{error.filename or target}: {error.strerror}.",
            "Two sources use one name for a file and for a folder; give one of them another name.",
        ) from error
    except OSError as error:
        raise trouble(error, target) from error


def _open_target(target: Path, merge: bool, within: Path | None) -> Folders:
    if within is None:
        target.mkdir(parents=True, exist_ok=True)
        folders = Folders(target)
    else:
        with Folders(within) as above:
            above.enter(target.relative_to(within).as_posix(), make=True)
        folders = Folders(target, within)
    if not merge and os.listdir(folders.enter("")):  # noqa: PTH208 (a handle)
        folders.close()
        raise Refused(f"The folder {target} is not empty.", "", "Choose another one.")
    return folders


def _lay(
    store: ChunkStore, manifest: Manifest, folders: Folders, wanted: Callable[[], bool]
) -> Laid:
    conflicts: list[str] = []
    chunks = store.read(
        [
            digest
            for entry in manifest.entries
            if isinstance(entry, FileEntry)
            for digest, size in entry.chunks()
            if not is_hole(digest, size)
        ]
    )
    for entry in manifest.entries:
        if not wanted():
            raise Refused("The tree is not wanted any more.", code="stopped")
        if isinstance(entry, FileEntry) and _lay_file(entry, folders, chunks):
            conflicts.append(entry.path)
        elif isinstance(entry, FolderEntry):
            folders.enter(entry.path, make=True)
    for entry in manifest.entries:
        if isinstance(entry, LinkEntry) and lay_link(entry, folders):
            conflicts.append(entry.path)
    return Laid(manifest.files, manifest.size_bytes, tuple(sorted(conflicts)))


def _lay_file(
    entry: FileEntry, folders: Folders, chunks: Iterator[tuple[Digest, memoryview]]
) -> bool:
    """Writes a file; whether something was replaced."""
    folder_path, name = split(entry.path)
    folder = folders.enter(folder_path, make=True)
    replaced = False
    try:
        file = os.open(name, _CREATE, 0o600, dir_fd=folder)
        written = name
    except FileExistsError:
        replaced = True
        written = draft_name()
        file = os.open(written, _CREATE, 0o600, dir_fd=folder)
    try:
        offset = 0
        for digest, size in entry.chunks():
            if not is_hole(digest, size):
                _, data = next(chunks)
                assert len(data) == size
                pwrite_all(file, data, offset)
            offset += size
        # The last thing in it may be a hole.
        os.ftruncate(file, offset)
        os.fchmod(file, 0o755 if entry.executable else 0o644)
        if replaced:
            os.rename(written, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(written, dir_fd=folder)
        raise
    finally:
        os.close(file)
    return replaced


def lay_link(entry: LinkEntry, folders: Folders) -> bool:
    """Makes a link; whether something was replaced."""
    folder_path, name = split(entry.path)
    folder = folders.enter(folder_path, make=True)
    try:
        os.symlink(entry.target, name, dir_fd=folder)
        return False
    except FileExistsError:
        draft = draft_name()
        os.symlink(entry.target, draft, dir_fd=folder)
        try:
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(draft, dir_fd=folder)
            raise
        return True


def pwrite_all(file: int, data: memoryview, offset: int) -> None:
    """Writes all of it, going on after short writes."""
    done = os.pwrite(file, data, offset)
    while done < len(data):
        done += os.pwrite(file, data[done:], offset + done)
