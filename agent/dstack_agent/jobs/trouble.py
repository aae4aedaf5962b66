"""Telling one kind of failure of our own from another."""

import sqlite3
from typing import cast


def storage_trouble(error: BaseException) -> BaseException | None:
    """What the disk refused, so that trying again may help; None if the disk is not to blame."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return next((found for each in inner if (found := storage_trouble(each))), None)
    return error if isinstance(error, OSError | sqlite3.Error) else None
