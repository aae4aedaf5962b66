"""What git knows of a project: its root, its files, its commit, where it came from."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from dstack_cli.git import Answer, ask
from dstack_mesh.frozen import frozen

IGNORE_FILE = ".dstackignore"

_SETTINGS = "core.autocrlf|core.eol|core.filemode|core.symlinks|core.ignorecase"
"""Settings that change what `git status` says of the same files."""

_LIST = ("ls-files", "-t", "-s", "-z", "-co", "--exclude-standard", "--full-name", "--", ":/")

_GITLINK = "160000"


@frozen
class Files:
    """Paths from the root, as git lists them.

    Attributes:
        tracked: Known to git, there or not.
        untracked: Not known to git and not ignored.
        gitlinks: Where submodules are, checked out or not.
    """

    tracked: frozenset[str]
    untracked: frozenset[str]
    gitlinks: frozenset[str] = frozenset()


@frozen
class Repository:
    """A git repository as it is now.

    Attributes:
        root: Top of the work tree.
        common: Where its objects are.
        prefix: The folder that was asked about, from the root; "" is the root.
        commit: "" if there is none yet.
        branch: "" if HEAD is detached.
        settings: Those that matter for the meaning of files.
        changed: Whether tracked files differ from the commit.
    """

    root: Path
    common: Path
    prefix: str
    commit: str
    branch: str
    remote: str
    settings: tuple[tuple[str, str], ...]
    changed: bool
    files: Files


def read_repository(folder: Path) -> Repository | None:
    """The repository that a folder belongs to; None if it belongs to none.

    Raises:
        Refused: There is no git, or it does not want to read the repository.
    """
    place, listed, status, config = ask(
        folder,
        (
            "rev-parse",
            "--path-format=absolute",
            "--show-toplevel",
            "--git-common-dir",
            "--show-prefix",
        ),
        _LIST,
        ("status", "--porcelain=v2", "--branch", "-z", "-uno", "--no-renames", "--no-ahead-behind"),
        ("config", "-z", "--get-regexp", rf"^(remote\..*\.url|branch\..*\.remote|{_SETTINGS})$"),
    )
    if place.code and "not a git repository" in place.trouble:
        return None
    what = f"The repository of {folder} cannot be read."
    root, common, prefix = place.require(what).out.decode(errors="surrogateescape").split("\n")[:3]
    commit, branch, changed = _head(status.require(what))
    known = _pairs(config.items)
    return Repository(
        root=Path(root),
        common=Path(common),
        prefix=prefix.rstrip("/"),
        commit=commit,
        branch=branch,
        remote=_remote(known, branch),
        settings=tuple(
            sorted((key, value) for key, value in known.items() if key.startswith("core."))
        ),
        changed=changed,
        files=_with_nested(Path(root), _files(listed.require(what).items)),
    )


def list_folder(folder: Path, empty: Path) -> Files:
    """The files of a folder that is in no repository; its .gitignore files count all the same.

    Args:
        empty: A git folder without content, made if it is not there.
    """
    _make_empty(empty)
    [listed] = ask(
        folder,
        (*without_repository(folder, empty), "ls-files", "-z", "-o", "--exclude-standard"),
    )
    found = frozenset(listed.require(f"The files of {folder} cannot be listed.").items)
    return _with_nested(folder, Files(frozenset(), found))


def without_repository(folder: Path, empty: Path) -> tuple[str, str]:
    """Options of git that make it see a folder that is in no repository."""
    return f"--git-dir={empty}", f"--work-tree={folder}"


def ignored_by_us(root: Path, files: Files, git: tuple[str, ...] = ()) -> frozenset[str]:
    """Those that a .dstackignore names, tracked or not.

    Args:
        git: Options of git that name the repository, for a folder that is in none.
    """
    if not any(path.rpartition("/")[2] == IGNORE_FILE for path in files.tracked | files.untracked):
        return frozenset()
    [listed] = ask(
        root, (*git, "ls-files", "-z", "-co", "-i", f"--exclude-per-directory={IGNORE_FILE}")
    )
    return frozenset(listed.require(f"The {IGNORE_FILE} of {root} cannot be used.").items)


def normalised(remote: str) -> str:
    """One name for a repository however it is reached: "github.com/acme/digits".

    User, password, port, scheme and ".git" are left out, so nobody's credentials travel and two
    people with different ways to the same repository mean the same.
    """
    if "://" in remote:
        parts = urlsplit(remote)
        host, path = parts.hostname or "", parts.path
    elif ":" in remote.split("/", 1)[0]:
        host, _, path = remote.rpartition("@")[2].partition(":")
    else:
        host, path = "", remote
    path = path.strip("/").removesuffix(".git").rstrip("/")
    return f"{host.lower()}/{path}" if host else path.rpartition("/")[2]


def without_credentials(remote: str) -> str:
    """The same address without user name and password, queries and fragments."""
    if "://" not in remote:
        return remote
    parts = urlsplit(remote)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    user = "git@" if parts.scheme.endswith("ssh") and parts.username == "git" else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


def _pairs(items: Iterable[str]) -> dict[str, str]:
    """Names and values as `git config -z` prints them; the last of a name counts."""
    parted = (item.partition("\n") for item in items)
    return {name: value for name, _, value in parted}


def _head(status: Answer) -> tuple[str, str, bool]:
    """Commit, branch and whether tracked files differ."""
    commit = branch = ""
    changed = False
    for line in status.items:
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ").replace("(initial)", "")
        elif line.startswith("# branch.head "):
            branch = line.removeprefix("# branch.head ").replace("(detached)", "")
        elif not line.startswith("#"):
            changed = True
    return commit, branch, changed


def _remote(config: dict[str, str], branch: str) -> str:
    """Address of the branch's remote, of "origin", or of the only one there is."""
    name = config.get(f"branch.{branch}.remote", "origin")
    urls = {key: value for key, value in config.items() if key.startswith("remote.")}
    only = next(iter(urls.values())) if len(urls) == 1 else ""
    return urls.get(f"remote.{name}.url", only)


def _files(items: Iterable[str]) -> Files:
    tracked: set[str] = set()
    untracked: set[str] = set()
    gitlinks: set[str] = set()
    for item in items:
        if item.startswith("? "):
            untracked.add(item[2:])
            continue
        mode, _, path = item[2:].partition("\t")
        (gitlinks if mode.startswith(_GITLINK) else tracked).add(path)
    return Files(frozenset(tracked), frozenset(untracked), frozenset(gitlinks))


def _with_nested(root: Path, files: Files) -> Files:
    """Adds the files of submodules and of repositories that lie in the work tree."""
    nested = {path.rstrip("/") for path in files.untracked if path.endswith("/")}
    checked_out = sorted(
        nested | {path for path in files.gitlinks if (root / path / ".git").exists()}
    )
    if not checked_out:
        return files
    tracked, untracked = set(files.tracked), {p for p in files.untracked if not p.endswith("/")}
    gitlinks = set(files.gitlinks)
    for below in checked_out:
        [listed] = ask(root / below, _LIST)
        what = f"The repository {below} in {root} cannot be read."
        inner = _with_nested(root / below, _files(listed.require(what).items))
        known = inner.tracked if below not in nested else frozenset[str]()
        fresh = inner.untracked if below not in nested else inner.tracked | inner.untracked
        tracked.update(_under(below, known))
        untracked.update(_under(below, fresh))
        gitlinks.update(_under(below, inner.gitlinks))
    return Files(frozenset(tracked), frozenset(untracked), frozenset(gitlinks))


def _under(folder: str, paths: Iterable[str]) -> Iterator[str]:
    return (f"{folder}/{path}" for path in paths)


def _make_empty(folder: Path) -> None:
    """The least that git takes for a repository."""
    if not (folder / "HEAD").exists():
        for part in ("objects", "refs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
