"""Power cuts: an ext4 whose disk logs what is written and flushed, and any moment of it again.

A cut keeps everything that was flushed before it, and of what was written after the last flush any
part: a disk may have taken some sectors and not others.
"""

import ctypes.util
import importlib.util
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.eventually import eventually
from support.logged_disk import Flush, Write, read_log

DISK_BYTES = 48 << 20
SECTOR_BYTES = 4096
"""What a disk writes whole or not at all. ext4 counts on it for its superblock."""

OPTIONS = "noauto_da_alloc"
"""Without the help that ext4 gives to programs that forget to sync."""


def needs_power_lab() -> None:
    """Skips, with the reason, where no file system of ours can be mounted."""
    reason = fuse_lacking() or _loop_lacking()
    if reason:
        pytest.skip(reason)


def fuse_lacking() -> str:
    """Why no file system can be served by a process here; "" if one can."""
    if importlib.util.find_spec("mfusepy") is None:
        return "needs mfusepy"
    if ctypes.util.find_library("fuse") is None:
        return "needs libfuse2"
    return "" if os.access("/dev/fuse", os.W_OK) and os.geteuid() == 0 else "needs root, /dev/fuse"


def _loop_lacking() -> str:
    for tool in ("mkfs.ext4", "losetup"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    free = subprocess.run(("losetup", "-f"), capture_output=True, check=False)
    return "needs a free loop device" if free.returncode else ""


class Recording:
    """A formatted disk and what was written to it while it was mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._base = folder / "base.img"

    @contextmanager
    def mounted(self) -> Generator[Path]:
        """The disk as a folder; what is written below is recorded."""
        live, disk, root = (self.folder / name for name in ("live.img", "fuse", "root"))
        for part in (disk, root):
            part.mkdir()
        with self._base.open("wb") as image:
            image.truncate(DISK_BYTES)
        command = ("mkfs.ext4", "-q", "-O", "^resize_inode", "-J", "size=4", str(self._base))
        subprocess.run(command, check=True)
        shutil.copyfile(self._base, live)
        self.log.touch()
        served = subprocess.Popen(
            (sys.executable, "-m", "support.logged_disk", str(disk), str(live), str(self.log)),
            cwd=Path(__file__).parents[1],
        )
        try:
            eventually((disk / "disk").exists, within=10)
            with _mounted(disk / "disk", root) as folder:
                yield folder
        finally:
            # The loop device lets go of its file a moment after it was unmounted.
            eventually(lambda: _unmounted(disk), within=10)
            served.wait(10)

    def position(self) -> int:
        """How far the log is now: what is acknowledged now must survive any later cut."""
        return self.log.stat().st_size

    def cuts(self, dice: random.Random, count: int, least: int = 0) -> list[int]:
        """Random moments, as positions of the log, in order."""
        ends = [record.end for record in read_log(self.log) if record.end >= least]
        return sorted(dice.choices(ends, k=count))

    @contextmanager
    def after(self, cut: int, dice: random.Random) -> Generator[Path]:
        """The disk as it may be found after power was lost at a moment."""
        image, root = self.folder / "cut.img", self.folder / "cut"
        root.mkdir(exist_ok=True)
        shutil.copyfile(self._base, image)
        flushed: list[Write] = []
        loose: list[Write] = []
        for record in read_log(self.log):
            if record.end > cut:
                break
            if isinstance(record, Flush):
                flushed, loose = [*flushed, *loose], []
            else:
                loose.append(record)
        with image.open("r+b") as disk:
            for write in [*flushed, *_survivors(loose, dice)]:
                disk.seek(write.offset)
                disk.write(write.data)
        with _mounted(image, root) as folder:
            yield folder


def _survivors(loose: Sequence[Write], dice: random.Random) -> list[Write]:
    """What a disk may have kept of what it was not told to flush."""
    share = dice.choice([0.0, 0.5, 0.9, 1.0])
    kept: list[Write] = []
    for write in loose:
        for begin in range(0, len(write.data), SECTOR_BYTES):
            if dice.random() < share:
                data = write.data[begin : begin + SECTOR_BYTES]
                kept.append(Write(write.offset + begin, data, write.end))
    return kept


def _unmounted(root: Path) -> bool:
    done = subprocess.run(("umount", str(root)), capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def _mounted(image: Path, root: Path) -> Generator[Path]:
    command = ("mount", "-o", f"loop,{OPTIONS}", str(image), str(root))
    subprocess.run(command, check=True)
    try:
        yield root
    finally:
        subprocess.run(("umount", str(root)), check=True)
