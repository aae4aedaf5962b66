"""Telling one kind of failure of our own from another."""

import sqlite3
from typing import cast


def is_storage_trouble(error: BaseException) -> bool:
    """Whether the disk is to blame, so that trying again may help."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return any(is_storage_trouble(each) for each in inner)
    return isinstance(error, OSError | sqlite3.Error)
