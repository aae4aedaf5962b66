"""`dstack-runner audit`: what is in the log of a home, and whether all of it is there."""

import json
from datetime import UTC, datetime, timedelta

from dstack_agent.audit.chain import Checked, Wrong
from dstack_agent.audit.entry import Line
from dstack_agent.audit.log import MOST_SEGMENTS
from dstack_agent.audit.reading import read_log
from dstack_mesh.faults import Invalid
from dstack_mesh.home import Home
from dstack_scheduler.spans import parse_span

BROKEN = 1
"""Exit code for a log that does not add up, as of `dstack-runner check`."""


def show_log(home: Home, since: str | None, as_json: bool) -> tuple[str, int]:
    """What to print, and the exit code. All of the log is checked, whatever is shown.

    Raises:
        Invalid: `since` is no time.
    """
    begin = parse_since(since, datetime.now(UTC)) if since else None
    checked = read_log(home.audit, MOST_SEGMENTS)
    lines = [line for line in checked.lines if begin is None or line.at >= begin]
    text = json.dumps(shape(checked, lines)) if as_json else told(checked, lines)
    return text, BROKEN if checked.wrong else 0


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that "2h" (before now) or "2026-11-25" or "2026-11-25T18:00" means.

    Args:
        now: A time without a zone is one of this machine's clock.

    Raises:
        Invalid: It is written otherwise.
    """
    try:
        return now - timedelta(seconds=parse_span(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise Invalid(
            f'"{text}" is no time.',
            "It is a span of time before now, or a date with or without a time of day.",
            "dstack-runner audit --since 2h\ndstack-runner audit --since 2026-11-25T18:00",
            "bad-time",
        ) from error


def shape(checked: Checked, lines: list[Line]) -> dict[str, object]:
    """As JSON."""
    head = checked.head
    return {
        "schema": "dstack.audit/v1",
        "items": [_shape(line) for line in lines],
        "problems": [vars(wrong) for wrong in checked.wrong],
        "head": None if head is None else {"line": head.seq, "digest": head.digest},
    }


def _shape(line: Line) -> dict[str, object]:
    entry = line.entry
    return {
        "line": line.seq,
        "at": line.at.isoformat(),
        "what": entry.what.value,
        "who": entry.who,
        "about": entry.about,
        "name": entry.name,
        "role": entry.role,
        "why": entry.why,
        "lost": line.lost,
    }


def told(checked: Checked, lines: list[Line]) -> str:
    """For people."""
    shown = [_told(line) for line in lines] or ["Nothing was written."]
    if checked.torn:
        shown.append("The last line is half written: the agent was killed then, or writes now.")
    shown += [_wrong(wrong) for wrong in checked.wrong]
    head = checked.head
    if head is not None and not checked.wrong:
        shown.append(f"All {len(checked.lines):,} lines follow each other up to line {head.seq}.")
        shown.append(f"It is {head.digest}; note it elsewhere to know this log again.")
    return "\n".join(shown)


def _told(line: Line) -> str:
    entry = line.entry
    at = line.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    called = ", ".join(word for word in (entry.name, entry.role) if word)
    words = f"{entry.about} by {entry.who}" + (f" ({called})" if called else "")
    words += f": {entry.why}" if entry.why else ""
    words += f" [{line.lost} lines before it were lost]" if line.lost else ""
    # What others call themselves goes to a terminal.
    safe = "".join(letter if letter.isprintable() else "?" for letter in words)
    return f"{line.seq:>6} {at} {entry.what.value:<8} {safe}"


def _wrong(wrong: Wrong) -> str:
    where = f"{wrong.file}:{wrong.line}: this line" if wrong.line else wrong.file
    return f"WRONG {where} {wrong.message}"
