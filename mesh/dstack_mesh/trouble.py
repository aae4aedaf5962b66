"""How trouble is told to a person, the same by every command."""

import errno
from collections.abc import Mapping
from typing import cast

from dstack_mesh.faults import Busy, Forbidden, MeshError, Refused

_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)

_DATABASE_HINTS: Mapping[str, str] = {
    "SQLITE_FULL": "free some space, or set DSTACK_HOME to a larger disk",
    "SQLITE_READONLY": "check who owns the files below DSTACK_HOME: dstack doctor",
    "SQLITE_CANTOPEN": "check who owns the files below DSTACK_HOME: dstack doctor",
}


def render(error: MeshError) -> str:
    """What happened and its code, why, what would fix it; a line each, no newline at the end."""
    lines = [f"{error.what.rstrip('.')} ({error.code})."]
    lines += [f"  {line}" for line in error.why.splitlines()]
    lines += [f"  fix: {line}" for line in error.hint.splitlines()]
    return "\n".join(lines)


def innermost(error: BaseException) -> BaseException:
    """The first piece of trouble within a group of a task group."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        error = group.exceptions[0]
    return error


def of_the_machine(error: BaseException) -> MeshError | None:
    """What the operating system or the disk refuses, in words; None if it is something else."""
    if isinstance(error, OSError) and error.strerror:
        return _of_the_system(error)
    name = getattr(error, "sqlite_errorname", None)
    if isinstance(name, str):
        family = "_".join(name.split("_")[:2])
        kind = Busy if family == "SQLITE_FULL" else Refused
        hint = _DATABASE_HINTS.get(family, "dstack doctor")
        return kind("A database of this home cannot be used.", f"{error}.", hint, name)
    return None


def _of_the_system(error: OSError) -> MeshError:
    word = errno.errorcode.get(error.errno or 0, "")
    if error.errno == errno.ENOENT and not error.filename:
        hint = "cd to a folder that is there"
        return Refused("The current folder does not exist any more.", "", hint, word)
    what = f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if isinstance(error, PermissionError):
        return Forbidden(what, "", "set DSTACK_HOME to a folder that you may write", word)
    if error.errno in _FULL:
        return Busy(what, "", "free some space, or set DSTACK_HOME to a larger disk", word)
    in_the_way = error.errno in _IN_THE_WAY and error.filename
    return Refused(
        what, "", f"mv {error.filename} elsewhere" if in_the_way else "dstack doctor", word
    )


def full_disk_in(error: BaseException) -> Busy | None:
    """A full disk of this machine, for others to be told; None if it is something else."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return next((full for each in inner if (full := full_disk_in(each))), None)
    if not isinstance(of_the_machine(error), Busy):
        return None
    hint = "free some space on that machine"
    return Busy("The disk of the answering peer is full.", f"It says: {error}.", hint, "disk-full")
