"""Telling one kind of failure of our own from another."""

import errno
import sqlite3
from typing import cast

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


def storage_trouble(error: BaseException) -> BaseException | None:
    """What the disk refused, so that trying again may help; None if the disk is not to blame."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return next((found for each in inner if (found := storage_trouble(each))), None)
    return error if _is_of_the_disk(error) else None


def _is_of_the_disk(error: BaseException) -> bool:
    match error:
        case OSError(errno=number):
            return number in _OF_THE_DISK
        case sqlite3.ProgrammingError():
            return False
        case _:
            return isinstance(error, sqlite3.Error)
