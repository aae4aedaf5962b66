"""Paths of a job as its workflow names them, and what they are where it does not start in its code.

A path is relative to the working directory, below "~/", or absolute. The working directory is
relative to the root of the code, or absolute: then it is one of the image, or of the machine for a
process, and so is what is relative to it.
"""

import posixpath
from collections.abc import Iterable


def named(path: str, working_dir: str) -> str:
    """A path, absolute if it is relative to a working directory that is absolute."""
    if not working_dir.startswith("/") or path.startswith(("/", "~")):
        return path
    return posixpath.normpath(posixpath.join(working_dir, path))


def outside(paths: Iterable[str], working_dir: str) -> tuple[str, ...]:
    """What of a job is not in its code: absolute, or below a person's home. Each once."""
    every = (working_dir, *(named(path, working_dir) for path in paths))
    return tuple(dict.fromkeys(path for path in every if path.startswith(("/", "~"))))
