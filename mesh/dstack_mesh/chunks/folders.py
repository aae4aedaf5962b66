"""Walks a tree by directory handles, one part at a time, never through a symbolic link.

Whoever can write to the tree may swap a folder for a link at any moment; a handle stays where it
was.
"""

import os
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """Handles of a root and of the folders on the way to the one looked at last.

    Visiting paths in order opens each folder once. Not thread-safe.
    """

    def __init__(self, root: Path, within: Path | None = None) -> None:
        """Opens the root.

        Args:
            root: Where to begin.
            within: If given, a folder above it that can be trusted: the way from there to the root
                must not lead through a link. Without it the root may be reached by links.

        Raises:
            OSError: There is no such folder, or a link is in the way.
            ValueError: The root is not below `within`.
        """
        parts = root.relative_to(within).parts if within else ()
        self._opened: list[tuple[str, int]] = []
        self._root = os.open(within or root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts:
            above = self._root
            try:
                self._root = os.open(part, _OPEN, dir_fd=above)
            finally:
                os.close(above)

    def __enter__(self) -> "Folders":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all handles."""
        self._keep([])
        os.close(self._root)

    def enter(self, folder: str, make: bool = False) -> int:
        """The handle of a folder below the root, valid until the next call.

        Args:
            folder: Parts joined by "/"; "" is the root.
            make: Makes folders that are not there, mode 0755.

        Raises:
            OSError: It is not there, or something on the way is no folder.
        """
        parts = folder.split("/") if folder else []
        for part in parts[self._keep(parts) :]:
            self._opened.append((part, _open(part, self._last, make)))
        return self._last

    @property
    def _last(self) -> int:
        return self._opened[-1][1] if self._opened else self._root

    def _keep(self, parts: list[str]) -> int:
        """Closes what is not on the way to `parts`; how many parts are open already."""
        same = 0
        while same < min(len(parts), len(self._opened)) and parts[same] == self._opened[same][0]:
            same += 1
        while len(self._opened) > same:
            os.close(self._opened.pop()[1])
        return same


def split(path: str) -> tuple[str, str]:
    """The folder of a path, "" for the root, and the name in it."""
    folder, _, name = path.rpartition("/")
    return folder, name


def _open(name: str, above: int, make: bool) -> int:
    if make:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            pass
        else:
            folder = os.open(name, _OPEN, dir_fd=above)
            os.fchmod(folder, 0o755)
            return folder
    return os.open(name, _OPEN, dir_fd=above)
