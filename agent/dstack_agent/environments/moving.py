"""Environments among the inputs of a job: made on another machine, perhaps at another path.

Two things in one are of the machine that made it. Its interpreter is a link out of the folder; such
links are never kept and never taken from others, so here it gets one to the same version of Python
that this machine has. And its scripts name the path they were made for; here they get the new one.
Everything is opened beneath a handle of the folder, as when it was laid. An environment of conda's
has an interpreter of its own.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dstack_agent.executor import pythons
from dstack_agent.jobs.places import Place
from dstack_mesh.chunks.drafts import draft_name
from dstack_mesh.chunks.folders import Folders
from dstack_mesh.chunks.laying import lay_link
from dstack_mesh.chunks.manifest import FileEntry, LinkEntry, Manifest
from dstack_mesh.chunks.tree import Skipped
from dstack_mesh.faults import Refused

MOST = 20
"""Environments in one input that are looked at."""

_SYSTEMS = frozenset({b"/", b"/usr", b"/usr/local"})
"""What scripts of the system's own Python name; no environment is there."""

_VERSION = re.compile(r"^version(?:_info)?\s*=\s*(\d+\.\d+)(?:\.(\d+))?", re.MULTILINE)
_HOME = re.compile(r"^home\s*=.*$", re.MULTILINE)
_MADE_AT = re.compile(rb"#!(/[^\n]{1,400})/bin/python[\d.]*[ \n]|''?'exec' '(/[^'\n]+)/bin/python")
_VIRTUAL_ENV = re.compile(rb"VIRTUAL_ENV=['\"]?(/[^'\"\n]+)")
_INTERPRETER = re.compile(r"(?:(?P<root>.+)/)?bin/python[\d.]*")
_LARGEST_SCRIPT = 1 << 20
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def settle(manifest: Manifest, place: Place, ambient: Mapping[str, str] = os.environ) -> None:
    """Makes environments of a tree that was just laid work where they lie now.

    Raises:
        Refused: This machine lacks the Python that one was made for.
        OSError: Something else is in the way.
    """
    files = {entry.path: entry for entry in manifest.entries if isinstance(entry, FileEntry)}
    with Folders(place.path, place.within) as folders:
        for root in list(_environments(manifest))[:MOST]:
            scripts = [each for path, each in files.items() if _is_in_bin(path, root)]
            if _within(root, "pyvenv.cfg") in files and not any(map(_is_interpreter, scripts)):
                _give_interpreter(root, folders, ambient)
            _rename(place.path / root, scripts, folders)


def without_interpreters(root: Path, skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """What was left out of a folder but for what `settle` makes again."""

    def comes_again(each: Skipped) -> bool:
        named = _INTERPRETER.fullmatch(each.path)
        return named is not None and (root / (named["root"] or "") / "pyvenv.cfg").is_file()

    return tuple(each for each in skipped if not comes_again(each))


def _environments(manifest: Manifest) -> Iterator[str]:
    """Folders that are environments: "" is the tree itself."""
    found: dict[str, None] = {}
    for entry in manifest.entries:
        folder, _, name = entry.path.rpartition("/")
        if name == "pyvenv.cfg":
            found[folder] = None
        elif folder == "conda-meta" or folder.endswith("/conda-meta"):
            found[folder.rpartition("/")[0]] = None
    yield from found


def _give_interpreter(root: str, folders: Folders, ambient: Mapping[str, str]) -> None:
    config = _read(folders, _within(root, "pyvenv.cfg")).decode(errors="replace")
    named = _VERSION.search(config)
    if named is None:
        return
    whole = named[1] if named[2] is None else f"{named[1]}.{named[2]}"
    python = pythons.find(whole, ambient) or pythons.find(named[1], ambient)
    if python is None:
        raise Refused(
            f"The virtual environment {root or '.'} was made for Python {named[1]},"
            " which is not on this machine.",
            f"There is {', '.join(pythons.available(ambient))}.",
            pythons.how_to_get(named[1]),
            "no-python",
        )
    executable = python.path.resolve()
    lay_link(LinkEntry(_within(root, "bin/python"), str(executable)), folders)
    for name in ("python3", f"python{named[1]}"):
        lay_link(LinkEntry(_within(root, f"bin/{name}"), "python"), folders)
    home = _HOME.sub(lambda _: f"home = {executable.parent}", config)
    _write(folders, _within(root, "pyvenv.cfg"), home.encode(), 0o644)


def _is_in_bin(path: str, root: str) -> bool:
    return posixpath.dirname(path) == _within(root, "bin")


def _is_interpreter(entry: FileEntry) -> bool:
    return _INTERPRETER.fullmatch(entry.path) is not None


def _rename(now: Path, scripts: Iterable[FileEntry], folders: Folders) -> None:
    """Has scripts of an environment name the path at which it is."""
    for entry in scripts:
        if entry.size_bytes > _LARGEST_SCRIPT:
            continue
        content = _read(folders, entry.path)
        made_at = _made_at(content)
        if made_at and made_at not in _SYSTEMS and made_at != os.fsencode(now):
            mode = 0o755 if entry.executable else 0o644
            whole = re.compile(re.escape(made_at) + rb"(?![\w.-])")
            renamed = whole.sub(lambda _: os.fsencode(now), content)
            if len(renamed) <= _LARGEST_SCRIPT:  # a sender may name it a million times
                _write(folders, entry.path, renamed, mode)


def _made_at(content: bytes) -> bytes:
    """The path of the environment that a script was made for; empty if it names none."""
    if content.startswith(b"\x7fELF"):
        return b""
    found = _MADE_AT.match(content) or _MADE_AT.search(content[:1000])
    if found is not None:
        return bytes(found[1] or found[2])
    activates = _VIRTUAL_ENV.search(content)
    return bytes(activates[1]) if activates else b""


def _within(root: str, path: str) -> str:
    return f"{root}/{path}" if root else path


def _read(folders: Folders, path: str) -> bytes:
    folder, _, name = path.rpartition("/")
    file = os.open(name, _LOOK, dir_fd=folders.enter(folder))
    with os.fdopen(file, "rb") as opened:
        return opened.read(_LARGEST_SCRIPT)


def _write(folders: Folders, path: str, content: bytes, mode: int) -> None:
    """Puts another file in the place of one."""
    folder, _, name = path.rpartition("/")
    handle, draft = folders.enter(folder), draft_name()
    file = os.open(draft, _CREATE, 0o600, dir_fd=handle)
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
        os.fchmod(opened.fileno(), mode)
    os.rename(draft, name, src_dir_fd=handle, dst_dir_fd=handle)
