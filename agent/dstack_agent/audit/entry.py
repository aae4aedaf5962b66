"""One line of the audit log: who did what. Never a secret, an argument or a text of a job."""

import json
from datetime import datetime
from enum import Enum
from typing import Any

from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen

LONGEST = 200
"""Characters of a text; what others call themselves is cut there."""


class What(Enum):
    """What happened."""

    ADMITTED = "admitted"
    ROLE = "role"
    LEFT = "left"
    REVOKED = "revoked"
    STOPPED = "stopped"
    DELETED = "deleted"
    GIVEN = "given"
    OPENED = "opened"
    ENTERED = "entered"
    POLICY = "policy"
    LENDING = "lending"
    REFUSED = "refused"
    WITNESSED = "witnessed"
    REWRITTEN = "rewritten"


@frozen
class Entry:
    """Something that happened.

    Attributes:
        who: The peer id of who did it, as its certificate proved it; else a word: owner, stranger.
        about: What it was done to: a peer id, a run, a tag, a method.
        name: What people call the peer that `who` is, or the one that `about` is.
        role: Of that peer.
        why: A reason, a code, a count.
    """

    what: What
    who: str
    about: str
    name: str = ""
    role: str = ""
    why: str = ""


@frozen
class Line:
    """An entry in its place.

    Attributes:
        seq: Lines are numbered from 1 and without a gap.
        prev: Digest of the line before it; empty in the first.
        lost: Entries between that line and this one that could not be written.
    """

    seq: int
    at: datetime
    entry: Entry
    prev: str = ""
    lost: int = 0

    def encoded(self) -> bytes:
        """As it stands in the file, with its end."""
        entry = self.entry
        texts = {
            "who": entry.who,
            "about": entry.about,
            "name": entry.name,
            "role": entry.role,
            "why": entry.why,
        }
        told = {
            "seq": self.seq,
            "at": self.at.isoformat(),
            "what": entry.what.value,
            **{key: text[:LONGEST] for key, text in texts.items()},
            "lost": self.lost,
            "prev": self.prev,
        }
        return json.dumps(told).encode() + b"\n"


def line_of(encoded: bytes) -> Line:
    """The line that these bytes are. Raises Invalid."""
    try:
        told: dict[str, Any] = json.loads(encoded)
        return Line(
            seq=int(told["seq"]),
            at=datetime.fromisoformat(told["at"]),
            entry=Entry(
                What(told["what"]),
                *(str(told[key]) for key in ("who", "about", "name", "role", "why")),
            ),
            prev=str(told["prev"]),
            lost=int(told["lost"]),
        )
    except (ValueError, TypeError, KeyError) as wrong:
        raise Invalid("This is no line of an audit log.", str(wrong)) from wrong
