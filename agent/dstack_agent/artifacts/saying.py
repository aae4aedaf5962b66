"""What people should know of artifacts that were saved, in sentences of bounded length."""

from collections.abc import Iterable, Mapping, Sequence

from dstack_mesh.chunks.tree import Saved

NAMED = 3
"""Files that are named; of the others it is said how many there are."""

NAME_CHARACTERS = 80

CHANGING_BYTES = 1024
"""What the names of changing files may take where they are passed on."""


def warning(absent: Sequence[str], found: Mapping[str, Saved]) -> str:
    """What is not there, what could not be kept and what is mixed; empty if nothing is.

    Args:
        found: What was saved, by the path of the artifact.
    """
    parts = [f"There is no folder {path}: the artifact is empty." for path in absent]
    for path, saved in found.items():
        parts += _left_out(path, saved)
        if saved.changed:
            parts.append(
                f"Of {path}, {_named(saved.changed)} changed each time they were read: their bytes "
                "may be of several moments."
            )
    return " ".join(parts)


def changing(saved: Saved) -> tuple[str, ...]:
    """The first files that changed each time they were read, as many as may be passed on."""
    names: list[str] = []
    room = CHANGING_BYTES
    for path in saved.changed:
        room -= len(path.encode())
        if room < 0:
            break
        names.append(path)
    return tuple(names)


def _left_out(path: str, saved: Saved) -> list[str]:
    """A sentence for each reason for which something was left out."""
    by_reason: dict[str, list[str]] = {}
    for skipped in saved.skipped:
        # What follows a colon is of this one file.
        by_reason.setdefault(skipped.reason.partition(":")[0], []).append(skipped.path)
    return [
        f"Left out of {path}: {_named(names)} ({reason})." for reason, names in by_reason.items()
    ]


def _named(names: Iterable[str]) -> str:
    shown = [_printable(name) for name in names]
    more = len(shown) - NAMED
    return ", ".join(shown[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _printable(name: str) -> str:
    """A name that a terminal can show: what is no text in it becomes an escape."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS]}…"
