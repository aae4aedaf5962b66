"""What a list of files would do to a machine that believed it: names resolved as a kernel does.

Written without the rules under test, so that it can find them wrong.
"""

from collections.abc import Iterable

from dstack_mesh.chunks.manifest import Entry, LinkEntry

MOST_LINKS = 40
"""As in Linux: whoever follows more gets an error."""


class Escaped(Exception):
    """A name leads out of the tree."""


def escapes(entries: Iterable[Entry]) -> list[str]:
    """The entries that are outside or that lead there, whoever follows them to whatever is there.

    A name that nothing has is taken for a folder: something else may have made it.
    """
    listed = list(entries)
    links = {entry.path: entry.target for entry in listed if isinstance(entry, LinkEntry)}
    found: list[str] = []
    for entry in listed:
        try:
            _walk(links, entry.path.split("/"), entry.path.startswith("/"))
        except Escaped:
            found.append(entry.path)
    return found


def _walk(links: dict[str, str], waiting: list[str], absolute: bool) -> None:
    at: list[str] = []
    followed = 0
    if absolute:
        raise Escaped
    while waiting:
        part, *waiting = waiting
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                raise Escaped
            at.pop()
            continue
        if "\0" in part:
            raise Escaped  # the rest of the name is cut off
        at.append(part)
        target = links.get("/".join(at))
        if target is not None:
            followed += 1
            if followed > MOST_LINKS:
                return
            if target.startswith("/"):
                raise Escaped
            at.pop()
            waiting = [*target.split("/"), *waiting]
