"""What others wrote, read and removed by the agent: whatever lies there, and however deep.

No link is followed, nothing but a regular file is read, and nothing recurses.
"""

import os
import stat
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_regular(path: Path, most_bytes: int) -> bytes | None:
    """The content of a regular file; None for anything else, and for what is larger."""
    try:
        file = os.open(path, _LOOK)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    with os.fdopen(file, "rb") as opened:
        content = opened.read(most_bytes + 1)
    return content if len(content) <= most_bytes else None


def entries_below(
    folder: Path, leave_out: Container[str] = ()
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """All that is below a folder, with the path from there; folders before what is in them.

    What cannot be listed, and what lies deeper than a path can be long, is left out.

    Args:
        leave_out: Names at the top.
    """
    left = [] if folder.is_symlink() else [(str(folder), "")]
    while left:
        path, below = left.pop()
        for entry in _listing(path):
            if not below and entry.name in leave_out:
                continue
            yield f"{below}{entry.name}", entry
            if entry.is_dir(follow_symlinks=False):
                left.append((entry.path, f"{below}{entry.name}/"))


def _listing(path: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []


def remove_tree(folder: Path) -> OSError | None:
    """Removes a folder, write-protected or not, or a link to one; the first trouble if any.

    A folder in a folder is first moved to the top, so it takes two handles and short names only.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            folder.unlink()
            return None
        top = _opened(str(folder), None)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    try:
        trouble = _empty(top)
    finally:
        os.close(top)
    try:
        folder.rmdir()
    except OSError as error:
        return trouble or error
    return trouble


def _empty(top: int) -> OSError | None:
    """Removes all that is in a folder; the first trouble if any."""
    trouble: OSError | None = None
    left = _names(top)
    while left:
        name = left.pop()
        try:
            if _is_folder(name, top):
                _flatten(name, top, left)
                os.rmdir(name, dir_fd=top)
            else:
                os.unlink(name, dir_fd=top)
        except FileNotFoundError:  # somebody else removed it
            continue
        except OSError as error:
            trouble = trouble or error
    return trouble


def _flatten(name: str, top: int, left: list[str]) -> None:
    """Moves the folders in a folder to the top, where they are left to be removed, and removes all
    else in it, as far as it can."""
    handle = _opened(name, top)
    try:
        for each in _names(handle):
            with suppress(OSError):  # it is told by what holds it, which cannot be removed then
                if _is_folder(each, handle):
                    os.close(_opened(each, handle))  # what is write-protected cannot be moved
                    moved = f".going-{os.urandom(8).hex()}"
                    os.rename(each, moved, src_dir_fd=handle, dst_dir_fd=top)
                    left.append(moved)
                else:
                    os.unlink(each, dir_fd=handle)
    finally:
        os.close(handle)


def _names(handle: int) -> list[str]:
    return os.listdir(handle)


def _is_folder(name: str, within: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)


def _opened(name: str, within: int | None) -> int:
    """A handle of a folder, of which all is allowed by then as far as that is ours."""
    handle = os.open(name, _HANDLE, dir_fd=within)
    try:
        with suppress(OSError):
            os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 (a handle's)
        return os.open(".", _FOLDER, dir_fd=handle)
    finally:
        os.close(handle)
