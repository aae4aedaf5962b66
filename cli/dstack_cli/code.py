"""Takes a snapshot of the code of a project: what travels with a run.

Rules: tracked files and untracked ones that are not ignored, as they are on disk now;
`.dstackignore` takes more out; untracked files that look like secrets stay here and are named. A
project in a git repository travels as the whole work tree, with a `.git` folder that holds the
commit, so that the job sees the same uncommitted changes; the job starts in the project's own
folder.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from dstack_cli.checkout import checkout
from dstack_cli.repository import (
    IGNORE_FILE,
    Files,
    Repository,
    ignored_by_us,
    list_folder,
    normalised,
    read_repository,
    without_repository,
)
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry
from dstack_mesh.chunks.paths import path_fault
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import Scan, Skipped, keep, scan
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from dstack_scheduler.job import Revision

MOST_BYTES = 2 << 30
MOST_FILES = 200_000
"""More is data, not code; it belongs into an artifact of its own."""

SECRETS = (
    *(".env", ".env.*", ".netrc", ".pgpass", ".pypirc", ".git-credentials", ".htpasswd"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials", "credentials.json"),
)
"""Names of files that look like secrets."""

NO_SECRETS = (".env.example", ".env.sample", ".env.template", ".env.dist")


@frozen
class Code:
    """The code of a run, durable in the store.

    Attributes:
        digest: Its manifest.
        prefix: The project's folder within it: where jobs start. "" is the root.
        files: Files of the work tree.
        size_bytes: Their bytes.
        skipped: What was left out, with the reason.
        changed: Files that changed while they were read.
    """

    digest: Digest
    revision: Revision
    prefix: str
    files: int
    size_bytes: int
    skipped: tuple[Skipped, ...] = ()
    changed: tuple[str, ...] = ()


def capture(folder: Path, store: ChunkStore, home: Home) -> Code:
    """Takes a snapshot of the project in a folder. What did not change is not read again.

    Raises:
        Refused: It is too large, or git is missing or does not want to read the repository.
        Busy: The disk is full.
    """
    folder = folder.absolute()
    repository = read_repository(folder)
    if repository is None:
        return _capture_folder(folder, store, home)
    root, files = repository.root, repository.files
    work = _scan(store, root, files, ignored_by_us(root, files))
    sent = scan(store, checkout(repository, home.root / "checkouts")).entries
    sent += [FolderEntry(path) for path in _submodules(repository)]
    revision = Revision(
        repo=normalised(repository.remote) or root.name,
        branch=repository.branch,
        commit=repository.commit,
        dirty=repository.changed or bool(files.untracked),
    )
    return _keep(store, work, sent, revision, repository.prefix)


def _capture_folder(folder: Path, store: ChunkStore, home: Home) -> Code:
    """The code of a project that is in no repository."""
    empty = home.root / "checkouts" / "none"
    files = list_folder(folder, empty)
    ignored = ignored_by_us(folder, files, without_repository(folder, empty))
    return _keep(store, _scan(store, folder, files, ignored), [], Revision(folder.name), "")


def _scan(store: ChunkStore, root: Path, files: Files, ignored: frozenset[str]) -> Scan:
    """Brings the files of the work tree into the store, except what is not to travel."""
    paths = (files.tracked | files.untracked) - ignored
    secrets = {path for path in paths & files.untracked if _looks_secret(path)}
    found = scan(store, root, paths - secrets, judge=_judge)
    for path in secrets:
        found.skip(path, "it looks like a secret and git does not track it")
    for path in ignored & files.tracked:
        found.skip(path, f"a {IGNORE_FILE} names it")
    return found


def _keep(
    store: ChunkStore, work: Scan, more: Iterable[Entry], revision: Revision, prefix: str
) -> Code:
    own = [entry for entry in work.entries if isinstance(entry, FileEntry)]
    size = sum(entry.size_bytes for entry in own)
    work.entries += more
    saved = keep(store, work)
    return Code(saved.digest, revision, prefix, len(own), size, saved.skipped, saved.changed)


def _submodules(repository: Repository) -> list[str]:
    """Folders of submodules: git takes even an empty one for a submodule that has no changes."""
    return [
        path
        for path in repository.files.gitlinks
        if not path_fault(path) and (repository.root / path).is_dir()
    ]


def _looks_secret(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return name not in NO_SECRETS and any(fnmatch(name, pattern) for pattern in SECRETS)


def _judge(sizes: Mapping[str, int]) -> None:
    """Raises Refused if there is too much to be code."""
    total = sum(sizes.values())
    if total <= MOST_BYTES and len(sizes) <= MOST_FILES:
        return
    biggest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:5]
    named = ", ".join(f"{path} ({sizes[path] / (1 << 20):,.0f} MiB)" for path in biggest)
    raise Refused(
        "The project is too large to send as code.",
        f"{len(sizes):,} files, {total / (1 << 30):.1f} GiB; the limits are {MOST_FILES:,} and "
        f"{MOST_BYTES >> 30} GiB. The biggest: {named}.",
        f"Name what jobs do not need in {IGNORE_FILE} or .gitignore.",
        code="code-too-large",
    )
