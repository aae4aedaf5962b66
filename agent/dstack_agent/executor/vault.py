"""A folder in memory for the secrets of one job. Standard library only: the shim imports it.

It lies on a tmpfs, so that no value ever reaches a disk by our hand, and where walls hide it from
jobs of others, which /dev/shm is not; its name is made from the job's folder, so that whoever finds
the job later finds it too. Where there is no such place there is no vault: the job has its
variables alone.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH102, PTH108, PTH123, PTH208

import contextlib
import errno
import os
import stat

FILES = "files"
"""Folder of a vault: a file by the name of each secret, for the job."""

OF_ROOT = "/run/dstack"
"""Folder of the vaults of root, who often has no /run/user/0."""

_MEMORY = ("tmpfs", "ramfs")


def place(folder: str) -> str:
    """Where the vault of a job's folder is, or would be; empty where there is no safe memory."""
    import hashlib  # only jobs with secrets pay for it

    base = base_of(os.getuid(), _memory_mounts())
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    return f"{base}/dstack-{name}" if base else ""


def fill(folder: str, files: "dict[str, str]") -> str:
    """Writes the vault of a job; returns its place, empty where there is none.

    Args:
        files: Contents by name, for the job to read.

    Raises:
        OSError: Something that is not ours is in its place.
    """
    vault = place(folder)
    if not vault:
        return ""
    if vault.startswith(f"{OF_ROOT}/"):
        _make(OF_ROOT)
    _make(vault)
    _make(f"{vault}/{FILES}")
    for name, value in files.items():
        write_private(f"{vault}/{FILES}/{name}", text_bytes(value))
    return vault


def clear(folder: str) -> None:
    """Removes the vault of a job, if there is one. Idempotent."""
    vault = place(folder)
    if not vault or not _ours(vault):
        return
    for part in (f"{vault}/{FILES}", vault):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(part):
                if name != FILES:
                    os.unlink(f"{part}/{name}")
            os.rmdir(part)  # noqa: PTH106


def base_of(user: int, mounts: "set[str]") -> str:
    """A folder in memory that the user may write and walls hide; empty where there is none."""
    own = f"/run/user/{user}"
    if own in mounts:
        return own
    return OF_ROOT if user == 0 and "/run" in mounts else ""


def _memory_mounts() -> "set[str]":
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return set()
    return {fields[1] for fields in lines if len(fields) > 2 and fields[2] in _MEMORY}


def _ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return private and status.st_uid == os.getuid()


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _ours(path):
            raise PermissionError(errno.EPERM, "it is somebody else's", path) from None


def text_bytes(text: str) -> bytes:
    """A value as the job reads it."""
    return text.encode("utf-8", "surrogateescape")


def write_private(path: str, data: bytes) -> None:
    """Writes a file anew that nobody else may read. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o400)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
