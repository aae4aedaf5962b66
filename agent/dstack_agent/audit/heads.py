"""What an agent remembers of the audit logs of others, and what of it goes into its own. Pure.

A log only grows. One whose end is told with a smaller number than before, or with the same number
and another digest, was written anew, or its disk was put back. Once a day the end of each goes into
our own log: whoever writes the other one anew would have to write all of these anew as well.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dstack_agent.audit.chain import Head
from dstack_agent.audit.entry import Entry, What
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.identity import is_id
from dstack_mesh.ids import PeerId

MOST = 1_024
"""Agents whose ends are remembered; those of which the longest nothing was heard are forgotten."""


@frozen
class Known:
    """The end that an agent told of its log. Days are counted from 1970; -1 is never.

    Attributes:
        heard_on: When something was heard of it last.
        written_on: When its end was written down last.
        written: Which line that was.
        alarmed_on: When it was last written down that it was written anew.
    """

    head: Head
    heard_on: int
    written_on: int = -1
    written: int = 0
    alarmed_on: int = -1


def witnessed(
    known: Mapping[PeerId, Known], told: Iterable[tuple[PeerId, str, Head]], day: int
) -> tuple[dict[PeerId, Known], list[Entry]]:
    """What is known from now on, and what to write down: two lines a day of each at most.

    Args:
        known: What was known.
        told: Each agent, what people call it, and the end that it tells now.
        day: Today.
    """
    after, entries = dict(known), list[Entry]()
    for peer, name, head in told:
        before = after.get(peer)
        now = Known(head, day) if before is None else replace(before, head=head, heard_on=day)
        if before is not None and _is_behind(head, before.head) and now.alarmed_on < day:
            entries.append(_rewritten(peer, name, before.head, head))
            now = replace(now, alarmed_on=day)
        if now.written_on < day and now.written != head.seq:
            why = f"line {head.seq} is {head.digest}"
            entries.append(Entry(What.WITNESSED, str(peer), "its audit log", name, why=why))
            now = replace(now, written_on=day, written=head.seq)
        after[peer] = now
    by_day = sorted(after, key=lambda peer: after[peer].heard_on, reverse=True)
    return {peer: after[peer] for peer in by_day[:MOST]}, entries


def _is_behind(told: Head, known: Head) -> bool:
    return told.seq < known.seq or (told.seq == known.seq and told.digest != known.digest)


def _rewritten(peer: PeerId, name: str, known: Head, told: Head) -> Entry:
    why = f"line {known.seq} was {known.digest}, its end is now line {told.seq}, {told.digest}"
    return Entry(What.REWRITTEN, str(peer), "its audit log", name, why=why)


def encoded(known: Mapping[PeerId, Known]) -> bytes:
    """For the disk."""
    rows = {
        peer: [one.head.digest, one.head.seq, one.heard_on, *_days(one)]
        for peer, one in known.items()
    }
    return json.dumps(rows).encode()


def decoded(stored: bytes) -> dict[PeerId, Known]:
    """What was kept. Raises Invalid."""
    try:
        rows: dict[str, Any] = json.loads(stored)
        return {
            PeerId(peer): Known(Head(int(seq), str(digest)), *map(int, rest))
            for peer, (digest, seq, *rest) in rows.items()
            if is_id(peer)
        }
    except (ValueError, TypeError, AttributeError) as wrong:
        raise Invalid("What others told of their audit logs is lost.", str(wrong)) from wrong


def _days(one: Known) -> tuple[int, int, int]:
    return one.written_on, one.written, one.alarmed_on
