"""Makes a run of folders of this machine, to be kept, tagged and copied as artifacts are.

Its one job runs nothing: the folders travel as its code does, and what it keeps is what came.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from dstack_cli import embedded
from dstack_cli.carrying import carry
from dstack_cli.code import Code
from dstack_cli.here import repo_of
from dstack_cli.misused import Misused
from dstack_cli.names import listed
from dstack_cli.naming import order_id, order_name
from dstack_cli.run_words import Asked
from dstack_cli.running import in_thread
from dstack_cli.submitting import Order
from dstack_cli.tagging import check_tag
from dstack_mesh.chunks.manifest import Entry, FolderEntry
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import Scan, keep, scan
from dstack_mesh.home import Home
from dstack_scheduler.job import Revision
from dstack_scheduler.plan import Plan, PlannedJob

UPLOAD = "upload"
"""What such a run was asked for, in listings."""

NOTHING = ":"
"""The shell's word for doing nothing."""


def upload(
    home: Home, tag: str, folders: Sequence[Path], as_json: bool = False, quiet: bool = False
) -> int:
    """Uploads folders as a run with a tag; returns the exit code.

    Raises:
        Misused: One is no folder, or two would have one name.
    """
    placed = _placed([folder.absolute() for folder in folders], Path.cwd())
    job = PlannedJob(0, "", "bash", (NOTHING,), artifacts=tuple(placed))
    reading = in_thread(lambda: _read(home, placed))
    order = Order(
        Plan(UPLOAD, (job,)), order_id(home), order_name(home), reading, tag=check_tag(tag)
    )
    starting = embedded.start(home) if not embedded.answers(home) else None
    return carry(home, order, Asked(target=UPLOAD, as_json=as_json, quiet=quiet, tag=tag), starting)


def _placed(folders: Sequence[Path], here: Path) -> dict[str, Path]:
    """Each folder at the path where jobs will get it: as from here, or by its own name."""
    placed: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise Misused(f"{folder} is no folder.", "", "ls", code="no-folder")
        resolved = folder.resolve()
        inside = resolved.is_relative_to(here.resolve()) and resolved != here.resolve()
        path = resolved.relative_to(here.resolve()).as_posix() if inside else resolved.name
        if not path:
            raise Misused(f"{folder} has no name.", "", "upload a folder in it", code="no-folder")
        if any(_overlap(path, other) for other in placed):
            raise Misused(
                f"Two of these folders would be {path}.",
                f"They are {listed(map(str, folders))}.",
                "upload one of them, or the folder that both are in",
                code="no-folder",
            )
        placed[path] = resolved
    return placed


def _overlap(one: str, other: str) -> bool:
    """Whether one of two paths is the other or below it."""
    paths = PurePosixPath(one), PurePosixPath(other)
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])


def _read(home: Home, placed: dict[str, Path]) -> Code:
    """The folders as one tree in this home's store."""
    home.prepare()
    store = ChunkStore(home.chunks)
    try:
        whole = Scan()
        for path, folder in placed.items():
            found = scan(store, folder)
            whole.entries += [FolderEntry(path), *(_below(path, entry) for entry in found.entries)]
            whole.skipped += [replace(one, path=f"{path}/{one.path}") for one in found.skipped]
            whole.changed += [f"{path}/{name}" for name in found.changed]
        saved = keep(store, whole)
        revision = Revision(repo_of(Path.cwd()))
        return Code(
            saved.digest, revision, "", saved.files, saved.size_bytes, saved.skipped, saved.changed
        )
    finally:
        store.close()


def _below(path: str, entry: Entry) -> Entry:
    return replace(entry, path=f"{path}/{entry.path}")
