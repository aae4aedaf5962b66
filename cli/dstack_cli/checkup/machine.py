"""This machine: the home, its disk, git."""

import errno
import os
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_cli.output.words import size
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home

LONGEST_SOCKET_PATH = 107
"""Bytes of a Unix socket's path that the kernel takes."""

FEW_INODES = 1000
WARN_INODES = 20_000


@frozen
class Room:
    """How much must be free: below `warn` bytes work is at risk, below `fail` it stops."""

    warn: int
    fail: int


HOME_ROOM = Room(warn=10 * 10**9, fail=10**9)
TEMPORARY_ROOM = Room(warn=10**9, fail=10**8)


def check_home(home: Home) -> Sequence[Finding]:
    """Whether we can keep anything."""
    probe = home.root / f".probe-{secrets.token_hex(4)}"
    try:
        home.prepare()
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        what = f"{home.root} cannot be written: {error.strerror}"
        return [failed("home", "home-not-writable", what, _way_to_write(home.root, error))]
    length = len(os.fsencode(home.agent_socket))
    if length > LONGEST_SOCKET_PATH:
        return [
            failed(
                "home",
                "path-too-long",
                f"{home.agent_socket} is {length} bytes long; a socket's path has at most"
                f" {LONGEST_SOCKET_PATH}",
                "set DSTACK_HOME to a folder with a shorter path",
            )
        ]
    return [passed("home", f"{home.root} can be written")]


def _way_to_write(folder: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space, or set DSTACK_HOME to a larger disk"
        case errno.EACCES | errno.EPERM:
            whole = shlex.quote(str(folder))
            return f"sudo chown -R $(id -u) {whole}   or set DSTACK_HOME to a folder of yours"
        case _:
            return "set DSTACK_HOME to a folder of yours"


def check_disk(home: Home, environ: Mapping[str, str]) -> Sequence[Finding]:
    """Whether there is room for chunks and work directories, in bytes and in files."""
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    temporary = Path(environ.get("TMPDIR") or "/tmp")
    move = f"du -xh --max-depth=2 {folder} | sort -h | tail   (or move DSTACK_HOME)"
    clean = f"du -xh --max-depth=1 {temporary} | sort -h | tail   (or set TMPDIR)"
    return [
        _free("disk", folder, HOME_ROOM, move),
        _free("temporary files", temporary, TEMPORARY_ROOM, clean),
    ]


def _free(check: str, folder: Path, room: Room, fix: str) -> Finding:
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return failed(check, "no-folder", f"{folder}: {error.strerror}", f"mkdir -p {folder}")
    free = disk.f_bavail * disk.f_frsize
    message = f"{size(free)} are free at {folder}"
    if disk.f_flag & os.ST_RDONLY:
        what = f"{folder} is mounted read-only"
        return failed(check, "read-only", what, f"dmesg | tail; sudo mount -o remount,rw {folder}")
    few = disk.f_favail < FEW_INODES
    if disk.f_files and (few or disk.f_favail < min(WARN_INODES, disk.f_files / 10)):
        used = f"{message}, but only {disk.f_favail} more files can be made (inodes)"
        count = f"sudo du --inodes -x --max-depth=2 {folder} | sort -n | tail"
        return (failed if few else warned)(check, "inodes-full", used, count)
    if free < room.fail:
        return failed(check, "disk-full", message, fix)
    return warned(check, "disk-low", message, fix) if free < room.warn else passed(check, message)


def check_git() -> Sequence[Finding]:
    """Whether code can be taken as git sees it."""
    found = shutil.which("git")
    if found is None:
        return [
            warned(
                "git",
                "no-git",
                "git is not on PATH: `dstack run` needs it to take the code",
                "sudo apt-get install git",
            )
        ]
    return [passed("git", found)]
