"""A folder in which the Nth change fails, as on a disk that is full or breaks.

`python -m support.faulty_folder MOUNTPOINT FOLDER CONTROL` serves FOLDER below MOUNTPOINT until it
is unmounted. The file CONTROL says what fails: a name of `errno`, a number, and "once" or "always".
Every change counts: writing, making, renaming, removing, syncing.
"""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.eventually import eventually

_STAT = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks", "st_ino")


class FaultyFolder:
    """A served folder. `fail` decides what fails from now on."""

    def __init__(self, path: Path, control: Path) -> None:
        self.path = path
        self._control = control

    def fail(self, kind: str, number: int, always: bool) -> None:
        """The change of that number from now on fails, and with `always` those after it too."""
        self._say(f"{kind} {number} {'always' if always else 'once'}")

    def heal(self) -> None:
        """Nothing fails any more."""
        self._say("")

    def failed(self) -> bool:
        """Whether something failed since `fail`."""
        return self._control.with_suffix(".failed").exists()

    def _say(self, what: str) -> None:
        self._control.with_suffix(".failed").unlink(missing_ok=True)
        draft = self._control.with_suffix(".new")
        draft.write_text(what)
        draft.replace(self._control)


@contextmanager
def faulty_folder(folder: Path) -> Generator[FaultyFolder]:
    """A folder below `folder` whose changes can be made to fail."""
    root, real, control = (folder / name for name in ("faulty", "real", "control"))
    root.mkdir()
    real.mkdir()
    control.write_text("")
    (real / ".served").touch()
    served = subprocess.Popen(
        (sys.executable, "-m", "support.faulty_folder", str(root), str(real), str(control)),
        cwd=Path(__file__).parents[1],
    )
    try:
        eventually((root / ".served").exists, within=10)
        yield FaultyFolder(root, control)
    finally:
        subprocess.run(("umount", "-l", str(root)), check=False)
        served.wait(10)


class _Faults:
    """Counts changes and fails those that are to fail."""

    def __init__(self, control: str) -> None:
        self._control = Path(control)
        self._told: tuple[int, str] = (0, "")
        self._count = 0
        self._lock = threading.Lock()

    def change(self) -> None:
        """Called before each change."""
        with self._lock:
            told = (self._control.stat().st_mtime_ns, self._control.read_text())
            if told != self._told:
                self._told, self._count = told, 0
            self._count += 1
            kind, number, often = [*told[1].split(), "", "0", ""][:3] if told[1] else ("", "0", "")
            due = self._count == int(number) or (often == "always" and self._count > int(number))
            if kind and due:
                self._control.with_suffix(".failed").touch()
                raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))


def serve(mountpoint: str, folder: str, control: str) -> None:  # noqa: C901 (a class)
    """Serves until unmounted."""
    from mfusepy import FUSE, Operations  # pyright: ignore[reportMissingTypeStubs]

    faults = _Faults(control)

    class Faulty(Operations):
        """Passes everything through, unless it is to fail."""

        use_ns = True

        def _at(self, path: str) -> str:
            return folder + path

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            state = os.lstat(self._at(path))
            times = {f"st_{x}time": getattr(state, f"st_{x}time_ns") for x in "amc"}
            return {name: getattr(state, name) for name in _STAT} | times

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(self._at(path))]  # noqa: PTH208

        def statfs(self, path: str) -> dict[str, int]:
            state = os.statvfs(folder)
            names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize", "f_favail")
            return {name: getattr(state, name) for name in names}

        def create(self, path: str, mode: int, fi: object = None) -> int:
            faults.change()
            return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def open(self, path: str, flags: int) -> int:
            return os.open(self._at(path), flags & ~(os.O_APPEND | os.O_EXCL))

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            faults.change()
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            faults.change()
            os.truncate(self._at(path), length)
            return 0

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            faults.change()
            return 0

        def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
            faults.change()
            return 0

        def rename(self, old: str, new: str) -> int:
            faults.change()
            Path(self._at(old)).rename(self._at(new))
            return 0

        def unlink(self, path: str) -> int:
            faults.change()
            Path(self._at(path)).unlink()
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            faults.change()
            Path(self._at(path)).mkdir(mode)
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            os.utime(self._at(path), ns=times or (0, 0))
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    FUSE(Faulty(), mountpoint, foreground=True, nothreads=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
