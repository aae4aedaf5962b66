"""Makes the `.git` folder that travels with the code, so that a job finds a real checkout.

It holds the one commit, its branch and an index; no history, remote branches, hooks, credentials or
links to other repositories. It is built from plain git objects here, on the laptop, and kept: the
same commit of the same repository is packed once. A later commit takes over the packs of an earlier
one and adds only what is new.
"""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from dstack_cli.git import answer, start
from dstack_cli.repository import Repository, without_credentials
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.packs import sync_folder
from dstack_mesh.faults import Refused

FORM = "1"
"""Part of a checkout's key; another form makes new ones."""

KEPT = 4
"""Checkouts that are kept of each repository."""

MOST_PACKS = 8
"""Packs that are taken over; then everything is packed anew."""


def checkout(repository: Repository, kept: Path) -> Path:
    """A folder with nothing but the `.git` folder to send.

    Args:
        kept: Where checkouts are kept.

    Raises:
        Refused: git cannot pack the commit.
    """
    group = kept / _hash([os.fspath(repository.common)])
    folder = group / _key(repository)
    if not folder.exists():
        draft = group / f".{os.urandom(4).hex()}.new"
        try:
            (draft / ".git").mkdir(mode=0o700, parents=True)
            _build(repository, draft / ".git", _earlier(group))
            _sync(draft)
            _move(draft, folder)
        finally:
            _remove(draft)
        _forget(group, folder)
    os.utime(folder)
    return folder


def _key(repository: Repository) -> str:
    facts = [FORM, repository.commit, repository.branch, repository.remote]
    return _hash([*facts, *(f"{key}={value}" for key, value in repository.settings)])


def _hash(parts: Iterable[str]) -> str:
    joined = "\0".join(parts).encode(errors="surrogateescape")
    return digest_of(joined).hex()[:24]


def _build(repository: Repository, git: Path, earlier: Path | None) -> None:
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (git / part).mkdir(parents=True)
    commit, branch = repository.commit, repository.branch
    (git / "config").write_text(_config(repository), errors="surrogateescape")
    head = f"ref: refs/heads/{branch}" if branch else commit
    (git / "HEAD").write_text(f"{head}\n", errors="surrogateescape")
    if not commit:
        return
    (git / "shallow").write_text(f"{commit}\n")
    if branch:
        ref = git / "refs" / "heads" / branch
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(f"{commit}\n")
    if not (earlier and _add_to(repository, git, earlier)):
        _pack(repository, git, [commit + "^{tree}"])
    index = answer(start(git, ("read-tree", commit), more_environment={"GIT_DIR": str(git)}))
    index.require(f"The commit {commit} cannot be made ready to send.")


def _config(repository: Repository) -> str:
    core = {"repositoryformatversion": "0", "filemode": "true", "bare": "false"}
    sha256 = len(repository.commit) == 64
    if sha256:
        core["repositoryformatversion"] = "1"
    core |= {key.removeprefix("core."): value for key, value in repository.settings}
    lines = ["[core]", *(f"\t{key} = {_quoted(value)}" for key, value in core.items())]
    if sha256:
        lines += ["[extensions]", "\tobjectformat = sha256"]
    if repository.remote:
        lines += ['[remote "origin"]', f"\turl = {_quoted(without_credentials(repository.remote))}"]
    return "\n".join([*lines, ""])


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _earlier(group: Path) -> Path | None:
    """The newest checkout of the same repository that has a commit and not too many packs."""
    for folder in sorted(_kept(group), key=lambda kept: kept.stat().st_mtime_ns, reverse=True):
        packs = list((folder / ".git" / "objects" / "pack").glob("*.pack"))
        if 0 < len(packs) < MOST_PACKS:
            return folder / ".git"
    return None


def _add_to(repository: Repository, git: Path, earlier: Path) -> bool:
    """Takes over the packs of an earlier checkout and adds what is new; whether that was
    possible."""
    before = (earlier / "shallow").read_text().strip()
    try:
        _pack(repository, git, [repository.commit + "^{tree}", f"^{before}^{{tree}}"])
    except Refused:
        # The earlier commit is not in the repository any more.
        return False
    for file in (earlier / "objects" / "pack").iterdir():
        os.link(file, git / "objects" / "pack" / file.name)
    return True


def _pack(repository: Repository, git: Path, trees: list[str]) -> None:
    """Packs the commit and the objects of its tree, without those of a tree that begins with
    "^"."""
    listing = answer(start(repository.root, ("rev-list", "--objects", *trees)))
    what = f"The commit {repository.commit} cannot be packed."
    objects = f"{repository.commit}\n".encode() + listing.require(what).out
    quick = ("-c", "pack.compression=1", "-c", "pack.writeBitmaps=false")
    arguments = (*quick, "pack-objects", "-q", "--delta-base-offset", "--window=0")
    packing = start(
        repository.root,
        (*arguments, str(git / "objects" / "pack" / "pack")),
        subprocess.PIPE,
        _writing_into(git / "objects", repository.common / "objects"),
    )
    out, trouble = packing.communicate(objects)
    if packing.returncode or not out:
        raise Refused(what, f"git says: {trouble.decode(errors='replace').strip()}")


def _writing_into(objects: Path, source: Path) -> dict[str, str]:
    """Makes git draft a pack where it will lie: the project may lie on another disk, and may not
    be ours to write."""
    escaped = str(source).replace("\\", "\\\\").replace('"', '\\"')
    return {
        "GIT_OBJECT_DIRECTORY": str(objects),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{escaped}"',
    }


def _sync(folder: Path) -> None:
    """Makes the files of a new checkout durable: it is trusted for as long as it is kept."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def _move(draft: Path, folder: Path) -> None:
    """Gives a checkout its name, unless another command was first."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.exists():
            raise


def _kept(group: Path) -> list[Path]:
    return [folder for folder in group.iterdir() if not folder.name.startswith(".")]


def _forget(group: Path, newest: Path) -> None:
    """Removes the checkouts that were used longest ago."""
    ordered = sorted(_kept(group), key=lambda kept: kept.stat().st_mtime_ns, reverse=True)
    for folder in [folder for folder in ordered if folder != newest][KEPT - 1 :]:
        _remove(folder)


def _remove(folder: Path) -> None:
    import shutil  # it loads three compressors, and most runs find their checkout made

    shutil.rmtree(folder, ignore_errors=True)
