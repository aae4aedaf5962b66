"""Reads the audit log of a home, whether or not its agent runs."""

from pathlib import Path

from dstack_agent.audit.chain import Checked, Head, Segment, check

HEAD = "head"
"""The file that names the last line."""

TRIES = 10
"""The writer may go on while its files are read; what was read then may not fit together."""


def segments_in(folder: Path) -> list[Path]:
    """The files of the log, oldest first."""
    return sorted(folder.glob("[0-9]*.jsonl"))


def read_head(folder: Path) -> Head | None:
    """What the log's head says; None if there is none that can be read."""
    try:
        seq, digest = (folder / HEAD).read_text().split()
        return Head(int(seq), digest)
    except (FileNotFoundError, ValueError):
        return None


def read_log(folder: Path, most: int) -> Checked:
    """The log and what is wrong with it. Blocks.

    Args:
        folder: Where it is; nothing there is an empty log.
        most: Files that its writer keeps.
    """
    checked = _read_once(folder, most)
    for _ in range(TRIES):
        if not checked.wrong:
            break
        checked = _read_once(folder, most)
    return checked


def _read_once(folder: Path, most: int) -> Checked:
    head = read_head(folder)
    segments = [Segment(path.name, path.read_bytes()) for path in segments_in(folder)]
    return check(segments, head, most)
