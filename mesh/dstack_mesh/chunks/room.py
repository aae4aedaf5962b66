"""Room on a disk: asking for it, and saying in words that there is none."""

import errno
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from dstack_mesh.faults import Busy, MeshError, Refused

GIB = 1 << 30
RESERVED_BYTES = GIB


def check_room(folder: Path, wanted_bytes: int) -> None:
    """Raises Busy unless the bytes fit on the disk of a folder.

    A short list of files can name one chunk a million times, so this comes before the first write.
    """
    free, _ = _free_and_total(folder)
    if free < wanted_bytes:
        raise Busy(
            f"The disk of {folder} is full.",
            f"{free:,} bytes are free and {wanted_bytes:,} are needed.",
            "Make room there, or choose another folder.",
            code="disk-full",
        )


def free_for_jobs(folder: Path) -> int:
    """Free bytes on the disk of a folder beyond the reserve that `check_reserve` keeps."""
    free, total = _free_and_total(folder)
    return max(0, free - _reserve(total))


def check_reserve(folder: Path, wanted_bytes: int = 0) -> None:
    """Raises Busy unless the bytes fit and 5 % of the disk, at least 1 GiB, stay free.

    What others send and begin here ends before the machine's owner has no room left.
    """
    free, total = _free_and_total(folder)
    reserve = _reserve(total)
    if free < reserve + wanted_bytes:
        raise Busy(
            "The disk of the machine is full.",
            f"{free / GIB:.1f} GiB are free where {folder} is; {wanted_bytes / GIB:.1f} are "
            f"needed and {reserve / GIB:.1f} are kept in reserve.",
            "Free some space there, or run it elsewhere with `--agent`.",
            "disk-full",
        )


def files_bytes(folders: Iterable[Path]) -> int:
    """What the files right in some folders take."""
    total = 0
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _free_and_total(folder: Path) -> tuple[int, int]:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize


def _reserve(total_bytes: int) -> int:
    return max(total_bytes // 20, RESERVED_BYTES)


@contextmanager
def in_words(folder: Path) -> Generator[None]:
    """Says errors of the disk as `trouble` does."""
    try:
        yield
    except OSError as error:
        raise trouble(error, folder) from error


def trouble(error: OSError, folder: Path) -> MeshError:
    """The error of a write in words: a full disk is `Busy`, everything else `Refused`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        state = os.statvfs(folder)
        free = state.f_bavail * state.f_frsize
        return Busy(
            f"The disk of {folder} is full.",
            f"{free:,} bytes and {state.f_favail:,} files are free.",
            "Make room there, or move DSTACK_HOME to a larger disk.",
            code="disk-full",
        )
    return Refused(f"Cannot write below {folder}.", str(error), "Check the disk and its rights.")
