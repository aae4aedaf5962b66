"""Folders in each other, more of them than any path may name."""

import os
from pathlib import Path

LONG = "d" * 250
"""Twenty of these in each other are more than a path can name."""


def make_deep(folder: Path, many: int = 1100, name: str = "d") -> None:
    """Makes so many below a folder, each with a file in it. Remove them: pytest cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(many):
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
            os.mkdir(name, dir_fd=handle)
            within = os.open(name, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = within
    finally:
        os.close(handle)
