"""How much disk jobs and what they kept take."""

import os
from collections.abc import Iterable
from pathlib import Path

BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system's own."""


def used_bytes(folders: Iterable[Path]) -> int:
    """Bytes on the disk of everything below some folders. Blocks: it looks at every file."""
    return sum(_used(str(folder)) for folder in folders)


def _used(folder: str) -> int:
    total, open_folders = 0, [folder]
    while open_folders:
        try:
            with os.scandir(open_folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        open_folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
        except OSError:  # gone meanwhile, or a job closed it to us
            continue
    return total
