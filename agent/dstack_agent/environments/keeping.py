"""Environments that were built and serve later jobs: a folder each, named by a seal.

    environments/KEY.json      the seal: says that the folder it names is whole
    environments/KEY.RANDOM/   what was built; nobody writes into it once it is sealed
    environments/KEY.lock      held while one is built, taken into use or removed

The seal is written last and renamed into place, so what a killed builder left has none and is never
used; each build has a folder of its own, so what a killed one still writes is in nobody's way. The
seal has a print of all files: one in which a job changed something all the same is built anew.
"""

import ctypes
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dstack_agent.executor.environment import VIRTUAL_ENVIRONMENT
from dstack_agent.executor.foreign import entries_below, remove_tree
from dstack_agent.executor.virtualenv import layer_of
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen

DEFAULT_BYTES = 20 << 30

MOST_DEPTH, LONGEST_PATH = 100, 2000
"""Folders in each other that an environment may have, and bytes of their names: more of them than
the kernel takes as one path would be neither protected nor looked at."""

_SEAL, _LOCK = ".json", ".lock"
_libc = ctypes.CDLL(None, use_errno=True)


@frozen
class Pruned:
    """What went, or would go."""

    environments: int = 0
    size_bytes: int = 0


@frozen
class _Seal:
    """What is known of a kept environment."""

    key: str
    folder: Path
    size_bytes: int
    print: str
    used_at: float


@dataclass(slots=True)
class KeptEnvironments:
    """The kept environments of one home.

    Attributes:
        jobs: Folders of jobs: what one of them uses is not removed.
        most_bytes: What all together may take; those that were not used for longest go first.
    """

    root: Path
    jobs: Path
    most_bytes: int = DEFAULT_BYTES

    @contextmanager
    def locked(self, key: str) -> Generator[bool]:
        """Holds a key against everybody else on the machine; False where somebody has it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._lock(key)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                if not (self.root / f"{key}{_SEAL}").exists():
                    (self.root / f"{key}{_LOCK}").unlink(missing_ok=True)
                os.close(lock)

    def _lock(self, key: str) -> int | None:
        path = self.root / f"{key}{_LOCK}"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody has it, or it was removed by who had it
        os.close(lock)
        return None

    def find(self, key: str) -> Path | None:
        """A whole environment, now used; None if there is none. Call it with the lock."""
        seal = self._seal(self.root / f"{key}{_SEAL}")
        if seal is None:
            return None
        if not seal.folder.is_dir() or measured(seal.folder)[1] != seal.print:
            (self.root / f"{key}{_SEAL}").unlink(missing_ok=True)
            return None
        os.utime(self.root / f"{key}{_SEAL}")
        return seal.folder

    def draft(self, key: str) -> Path:
        """A new folder to build in, beside what others left. Call it with the lock."""
        folder = self.root / f"{key}.{os.urandom(4).hex()}"
        folder.mkdir(mode=0o755)
        return folder

    def seal(self, key: str, folder: Path, about: str) -> None:
        """Says that a folder is whole, once its files are on the disk. Call it with the lock."""
        _write_protect(folder)
        _sync(folder)
        size, print_ = measured(folder)
        words = {"folder": folder.name, "size_bytes": size, "print": print_, "about": about}
        write_durably(self.root / f"{key}{_SEAL}", json.dumps(words).encode())

    def keep_within_bounds(self) -> Pruned:
        """Removes those that were not used for longest, down to the bound, and what has no seal."""
        seals = sorted(self._seals(), key=lambda seal: seal.used_at, reverse=True)
        room, gone = self.most_bytes, list[_Seal]()
        for seal in seals:
            room -= seal.size_bytes
            if room < 0:
                gone.append(seal)
        return self._remove(gone, dry_run=False)

    def prune(self, dry_run: bool) -> Pruned:
        """Removes all that no job uses now."""
        return self._remove(list(self._seals()), dry_run)

    def _remove(self, seals: list[_Seal], dry_run: bool) -> Pruned:
        count = size = 0
        for seal in seals:
            with self.locked(seal.key) as mine:
                if not mine or seal.folder.name in self._used():
                    continue
                count, size = count + 1, size + seal.size_bytes
                if not dry_run:
                    (self.root / f"{seal.key}{_SEAL}").unlink(missing_ok=True)
                    remove_tree(seal.folder)
        if not dry_run:
            self._remove_unsealed()
        return Pruned(count, size)

    def _remove_unsealed(self) -> None:
        """What killed builders left, and what was changed and is not used any more."""
        whole = {seal.folder.name for seal in self._seals()}
        for folder in self._listing():
            if not folder.is_dir() or folder.name in whole:
                continue
            key = folder.name.partition(".")[0]
            with self.locked(key) as mine:
                # It may have been sealed, and laid under a job, since it was listed.
                seal = self._seal(self.root / f"{key}{_SEAL}")
                named = {*self._used(), *([seal.folder.name] if seal else [])}
                if mine and folder.name not in named:
                    remove_tree(folder)

    def _used(self) -> Iterator[str]:
        for folder in self.jobs.iterdir() if self.jobs.is_dir() else ():
            layer = layer_of(folder / VIRTUAL_ENVIRONMENT)
            if layer is not None and layer.parent == self.root:
                yield layer.name

    def _seals(self) -> Iterator[_Seal]:
        for path in self._listing():
            seal = self._seal(path) if path.suffix == _SEAL else None
            if seal is not None:
                yield seal

    def _listing(self) -> list[Path]:
        return list(self.root.iterdir()) if self.root.is_dir() else []

    def _seal(self, path: Path) -> _Seal | None:
        try:
            words = cast(dict[str, object], json.loads(path.read_bytes()))
            folder = self.root / Path(str(words["folder"])).name
            size = int(str(words["size_bytes"]))
            return _Seal(path.stem, folder, size, str(words["print"]), path.stat().st_mtime)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def measured(folder: Path) -> tuple[int, str]:
    """Bytes on the disk, and a print of names, sizes and times of all files.

    What interpreters write beside a source when they first read it is left out.
    """
    size = 0
    print_ = hashlib.blake2b(digest_size=16)
    for path, state in sorted(_files(folder), key=lambda each: each[0]):
        size += state.st_blocks * 512
        print_.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "replace"))
    return size, print_.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for path, entry in entries_below(folder):
        if "__pycache__/" in path or path.endswith(".pyc"):
            continue
        if not entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # gone meanwhile, or at a path that is too long
                yield path, entry.stat(follow_symlinks=False)


def _write_protect(folder: Path) -> None:
    """Nobody but root can change what is in it by mistake. Raises Refused if it is too deep."""
    for path, entry in entries_below(folder):
        if path.count("/") >= MOST_DEPTH or len(os.fsencode(path)) > LONGEST_PATH:
            raise Refused(
                "The requirements were not installed.",
                f"The installer made folders more than {MOST_DEPTH} deep, or with names too long.",
                "One of the packages is not what it should be.",
                "not-installed",
            )
        if not entry.is_symlink():
            mode = entry.stat(follow_symlinks=False).st_mode
            is_folder = entry.is_dir(follow_symlinks=False)
            os.chmod(entry.path, 0o555 if is_folder else mode & ~0o222)  # noqa: PTH101
    folder.chmod(0o555)


def _sync(folder: Path) -> None:
    """Has the kernel write everything of the file system; one call, however many files."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _libc.syncfs(handle)
    finally:
        os.close(handle)
