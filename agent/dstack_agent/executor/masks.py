"""Mounts that only a walled process has. Standard library only: the shim imports it.

Landlock does not govern who connects to a Unix socket by its path, so what holds such sockets of
the person's is not there at all: an empty folder lies over it, in a mount namespace of the
process's own, and a user's process has a user namespace for that. Walls that are put up afterwards
let it change no mount. Propagation stays one-way: what the machine mounts later (a home, a login's
folder) arrives, and below an empty folder it arrives unseen.
Source: mount_namespaces(7) and user_namespaces(7).
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH103, PTH109, PTH110, PTH112, PTH116, PTH120, PTH123, PTH211

import contextlib
import ctypes
import errno
import os
import stat
import struct
import sys

EMPTY, KEEP, LINK, INSTEAD = "empty", "keep", "link", "instead"
"""What a mask does to a path: shows an empty folder there, leaves a part of one visible, shows a
link to somewhere, or another folder."""

_SHARED = ("/tmp/", "/var/tmp/")
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_BIND, _RECURSIVE, _SLAVE = 0x1000, 0x4000, 0x80000
_SET_ATTRIBUTES = 442
_READ_ONLY = 1
_AT_FDCWD = -100
_PR_SET_DUMPABLE = 4
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def put_up(masks: "list[str]", paths: "list[str]") -> None:
    """Gives this process, which has one thread, and all that it starts mounts of their own.

    It stands in the same folder afterwards, and has the capabilities for more until walls are up.

    Args:
        masks: A kind, a path, and where it leads, again and again.
        paths: What walls leave open, also in what is empty otherwise.

    Raises:
        OSError: The system refuses.
    """
    here = os.getcwd()
    threes = list(zip(masks[::3], masks[1::3], masks[2::3], strict=True))
    over = _topmost([path for kind, path, _ in threes if kind in (EMPTY, INSTEAD)])
    empty = [path for kind, path, _ in threes if kind == EMPTY and path in over]
    kept = [_real(path) for path in [path for kind, path, _ in threes if kind == KEEP] + paths]
    _enter()
    _mount("none", "/", "", _RECURSIVE | _SLAVE)
    opened = _opened([path for path in _topmost(kept) if _is_below(path, empty)])
    instead = {path: os.open(to, _PATH) for kind, path, to in threes if kind == INSTEAD}
    shown = [path for path in empty if _shuts(path)]
    for path, source in instead.items():
        _mount(f"/proc/self/fd/{source}", path, "", _BIND | _RECURSIVE)
    for path, source in opened.items():
        _show(path, source)
    for kind, path, to in threes:
        if kind == LINK and _is_below(path, empty) and not _is_below(path, list(opened)):
            _make_folder(os.path.dirname(path))
            with contextlib.suppress(FileExistsError):
                os.symlink(to, path)
    for path in shown:
        _freeze(path)
    for path in _sockets():
        with contextlib.suppress(FileNotFoundError):  # whoever made it removed it
            _mount(os.devnull, path, "", _BIND)
    if os.path.ismount("/dev/pts"):
        # sshd gives up where it may not give a terminal to a group, unless nothing can be changed.
        _freeze("/dev/pts")
    for descriptor in (*opened.values(), *instead.values()):
        os.close(descriptor)
    os.chdir(here)  # the same path: what it stood in until now is the folder below the masks


def spaces_of(process: int) -> "list[int]":
    """The namespaces of a process that has masks, open, for `join`.

    Raises:
        OSError: The process is gone, or the system refuses.
    """
    found: list[int] = []
    for kind in ("user", "mnt"):
        theirs = os.open(f"/proc/{process}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(theirs).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino:
            os.close(theirs)  # nobody may enter the user namespace that is its own
        else:
            found.append(theirs)
    if not found:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    return found


def join(spaces: "list[int]") -> None:
    """Brings this process, which has one thread, behind masks that are up. Raises OSError."""
    for space in spaces:
        _check(_libc.setns(space, 0))


def _enter() -> None:
    """Makes the namespaces."""
    if _libc.unshare(_NEW_MOUNTS) == 0:
        return
    if ctypes.get_errno() != errno.EPERM:
        _check(-1)
    user, group = os.geteuid(), os.getegid()
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))  # else its files in /proc are root's
    _check(_libc.unshare(_NEW_USER | _NEW_MOUNTS))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _real(path: str) -> str:
    """Where a path lies; a link in its place is not followed, for whose is it?"""
    folder, name = os.path.split(path)
    return f"{os.path.realpath(folder)}/{name}"


def _opened(paths: "list[str]") -> "dict[str, int]":
    """What is there of some paths, open; links and sockets apart."""
    found: dict[str, int] = {}
    for path in paths:
        try:
            descriptor = os.open(path, _PATH)
        except OSError:
            continue
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISLNK(mode) or stat.S_ISSOCK(mode):
            os.close(descriptor)
        else:
            found[path] = descriptor
    return found


def _shuts(path: str) -> bool:
    """Lays nothing over a path; returns whether there is a folder to show parts of it in."""
    if os.path.isdir(path):
        _mount("tmpfs", path, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=0755")
        return True
    if os.path.exists(path):
        _mount(os.devnull, path, "", _BIND)
    return False


def _show(path: str, source: int) -> None:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        _make_folder(path)
    else:
        _make_folder(os.path.dirname(path))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _mount(f"/proc/self/fd/{source}", path, "", _BIND | _RECURSIVE)


def _make_folder(path: str) -> None:
    os.makedirs(path, 0o755, exist_ok=True)


def _sockets() -> "list[str]":
    """Sockets of the user that can be seen still; of root's only those where everybody has some."""
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        named = {line.split(None, 7)[-1].rstrip("\n") for line in file}
    user = os.geteuid()
    found: list[str] = []
    for path in named:
        if path.startswith("/" if user else _SHARED):
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISSOCK(status.st_mode) and (status.st_uid == user or not user):
                    found.append(path)
    return found


def _topmost(paths: "list[str]") -> "list[str]":
    """Those of some paths that are below none of the others."""
    found: list[str] = []
    for path in sorted(set(paths), key=len):
        if not _is_below(path, found):
            found.append(path)
    return found


def _is_below(path: str, folders: "list[str]") -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def _freeze(path: str) -> None:
    """Has nothing of a mount changed, whatever else it is mounted with."""
    attributes = struct.pack("=QQQQ", _READ_ONLY, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    name = os.fsencode(path)
    _check(_libc.syscall(_SET_ATTRIBUTES, _AT_FDCWD, name, 0, attributes, size))


def _mount(source: str, path: str, kind: str, flags: int, options: str = "") -> None:
    words = [os.fsencode(word) for word in (source, path, kind)]
    told = os.fsencode(options) if options else None
    if _libc.mount(*words, ctypes.c_ulong(flags), told) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> int:
    """Tries it for an agent: says on standard output what the system refuses, if it does."""
    try:
        put_up([EMPTY, "/run", "", KEEP, "/run/lock", ""], [])
    except OSError as error:
        print(error.strerror)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
