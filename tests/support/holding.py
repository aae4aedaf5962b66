"""Which files hold something, while an agent goes on making and removing some."""

import os
from pathlib import Path


def files_holding(folder: Path, text: bytes) -> list[Path]:
    """Those below a folder with these bytes; what goes meanwhile is left out."""
    return [path for path in _files(folder) if text in _content(path)]


def _files(folder: Path) -> list[Path]:
    walked = os.walk(folder)  # leaves out folders that are gone
    return [Path(root, name) for root, _, names in walked for name in names]


def _content(path: Path) -> bytes:
    if not path.is_file():
        return b""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
