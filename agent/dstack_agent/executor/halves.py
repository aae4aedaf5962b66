"""Values that a job's next shim must hide, kept so that neither half of them says anything.

Standard library only: the shim imports it. One half is as many random bytes in the job's folder, on
the disk and behind the walls; the other is the values, crossed with these bytes, in memory that
anybody of this user may read. A restart of the machine takes the second.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH108, PTH123

import contextlib
import os

from dstack_agent.executor.vault import text_bytes, write_private

MEMORY = "/dev/shm"

_HALF = ".half"


def keep(folder: str, values: "list[str]") -> None:
    """Keeps values for a shim that takes over from a dead one. Raises OSError."""
    data = text_bytes("\0".join(values))
    pad = os.urandom(len(data))
    write_private(f"{folder}/{_HALF}", pad)
    write_private(_other(folder), _crossed(data, pad))


def kept(folder: str) -> "list[str]":
    """The values that were kept for the shims of a job; empty if there are none."""
    try:
        pad, other = _read(f"{folder}/{_HALF}"), _read(_other(folder))
    except OSError:
        return []
    if not pad or len(pad) != len(other):
        return []
    return _crossed(pad, other).decode("utf-8", "surrogateescape").split("\0")


def forget(folder: str) -> None:
    """Removes both halves, if they are there. Idempotent."""
    for path in (_other(folder), f"{folder}/{_HALF}"):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # what is not ours stays
            os.unlink(path)


def _other(folder: str) -> str:
    import hashlib  # only jobs with secrets pay for it

    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    return f"{MEMORY}/dstack-{os.getuid()}-{name}"


def _read(path: str) -> bytes:
    """A file of this user. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read() if os.fstat(descriptor).st_uid == os.getuid() else b""


def _crossed(one: bytes, other: bytes) -> bytes:
    crossed = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return crossed.to_bytes(len(one), "big")
