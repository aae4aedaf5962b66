"""A job that swaps what is in its folder for links, pipes and folders, as fast as it can.

Run as a process: `swapper.py FOLDER OUTSIDE FLIPS`. In FOLDER it needs a folder `d` with a file `f`
and a file `e`; OUTSIDE has a file `f`. A flip sets something in a name's place that leads out or
that would block a reader. Whoever writes to the folder meanwhile is put up with.
"""

# Plain names, as the kernel gets them.
# ruff: noqa: PTH118

import os
import shutil
import sys
from collections.abc import Callable


def _tried(operation: Callable[..., object], *names: str) -> int:
    """1 if it was done, 0 if not."""
    try:
        operation(*names)
    except OSError:
        return 0
    return 1


def swap(root: str, outside: str, flips: int) -> None:
    """Flips until it has done so many."""
    os.chdir(root)
    done = 0
    while done < flips:
        # A folder becomes a link to a folder outside, and comes back.
        _tried(os.rename, "d", ".kept")
        done += _tried(os.symlink, outside, "d")
        _tried(os.unlink, "d")
        if not _tried(os.rename, ".kept", "d"):
            shutil.rmtree("d", ignore_errors=True)
            _tried(os.rename, ".kept", "d")
        # A file becomes a link to a file outside, a pipe, a folder, and comes back.
        _tried(os.rename, "e", ".e")
        done += _tried(os.symlink, os.path.join(outside, "f"), "e")
        _tried(os.unlink, "e")
        done += _tried(os.mkfifo, "e")
        _tried(os.unlink, "e")
        done += _tried(os.mkdir, "e")
        _tried(os.rmdir, "e")
        _tried(os.rename, ".e", "e")
        # The same below, where the reader is inside already.
        _tried(os.rename, "d/f", "d/.f")
        done += _tried(os.symlink, "../../outside/f", "d/f")
        _tried(os.unlink, "d/f")
        done += _tried(os.mkfifo, "d/f")
        _tried(os.unlink, "d/f")
        _tried(os.rename, "d/.f", "d/f")


if __name__ == "__main__":
    swap(sys.argv[1], sys.argv[2], int(sys.argv[3]))
