"""Which names a tree may have. One rule for what is saved here and for what others send.

A path is relative, in UTF-8, its parts joined by "/". A part is not empty, not "." or "..", at most
255 bytes and free of control characters; a path has at most 4,096 bytes and 64 parts. A backslash
or a colon is a letter like any other: every name is opened beneath a directory handle, part by
part.
"""

import posixpath
import re

PATH_BYTES = 4096
NAME_BYTES = 255
DEPTH = 64

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def path_fault(path: str) -> str:
    """What is wrong with a path; empty if nothing is."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if _CONTROL.search(path):
        return "its name has a control character"
    if not raw:
        return "its name is empty"
    if len(raw) > PATH_BYTES:
        return f"its path is longer than {PATH_BYTES:,} bytes"
    parts = path.split("/")
    if len(parts) > DEPTH:
        return f"it lies deeper than {DEPTH} folders"
    return _parts_fault(parts, len(raw))


def _parts_fault(parts: list[str], size: int) -> str:
    for part in parts:
        if part == "":
            return "its path is absolute or has an empty part"
        if part in (".", ".."):
            return f'its path has a "{part}"'
        if size > NAME_BYTES and len(part.encode()) > NAME_BYTES:
            return f"a name in it is longer than {NAME_BYTES} bytes"
    return ""


def link_fault(path: str, target: str) -> str:
    """What is wrong with a symbolic link at `path` that says `target`; empty if nothing is.

    A target is relative text that stays inside the tree at every step, whatever is a link on the
    way: ".." may only come first, and no oftener than the link is deep.
    """
    try:
        raw = target.encode()
    except UnicodeEncodeError:
        return "its target is not UTF-8"
    if not raw or len(raw) > PATH_BYTES or _CONTROL.search(target):
        return "its target is empty, too long or has a control character"
    if posixpath.isabs(target):
        return f"it points to an absolute path: {target}"
    ups = 0
    below = False
    for part in target.split("/"):
        if part == "..":
            if below:
                return f"it points through a folder and back: {target}"
            ups += 1
        elif part not in ("", "."):
            below = True
    if ups > path.count("/"):
        return f"it points out of the tree: {target}"
    return ""
