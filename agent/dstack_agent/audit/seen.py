"""What an agent saw of its mesh and its owner's word when it last looked, and what changed. Pure.

It is kept, so that what happened while the agent was not running is told when it starts.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from dstack_agent.audit.entry import Entry, What
from dstack_agent.owner.standing import Draining, Open, Paused, Standing
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.roster.picture import Belonging, Enrolled, Picture

OWNER = "owner"


@frozen
class Seen:
    """All that is looked at.

    Attributes:
        members: By peer id: name, role, belonging.
        policy: Digest of the file's text; empty without one.
        lending: How the owner lends the machine.
    """

    members: Mapping[str, tuple[str, str, str]]
    policy: str = ""
    lending: str = ""

    def encoded(self) -> bytes:
        """For the disk."""
        told = {"members": self.members, "policy": self.policy, "lending": self.lending}
        return json.dumps(told).encode()


NOTHING = Seen({}, lending="open")
"""Before the first look."""


def seen_of(picture: Picture, policy: str, standing: Standing) -> Seen:
    """What there is to see now."""
    members = {
        str(peer): (one.name, one.role.value, one.belonging.value)
        for peer, one in picture.members.items()
    }
    digest = hashlib.sha256(policy.encode()).hexdigest() if policy else ""
    return Seen(members, digest, lending_told(standing))


def seen_from(encoded: bytes) -> Seen:
    """What was kept. Raises Invalid."""
    try:
        told: dict[str, Any] = json.loads(encoded)
        members: dict[str, list[str]] = told["members"]
        known = {peer: (name, role, how) for peer, (name, role, how) in members.items()}
        return Seen(known, str(told["policy"]), str(told["lending"]))
    except (ValueError, TypeError, KeyError, AttributeError) as wrong:
        raise Invalid("What was seen before cannot be read.", str(wrong)) from wrong


def lending_told(standing: Standing) -> str:
    """How the owner lends, in words."""
    match standing:
        case Open():
            return "open"
        case Paused(until):
            return "paused" if until is None else f"paused until {until.isoformat()}"
        case Draining():
            return "draining"


def changes(before: Seen, after: Seen, picture: Picture) -> Iterator[Entry]:
    """What happened in between, a line each."""
    for peer, (_, role, belonging) in after.members.items():
        known = before.members.get(peer)
        one = picture.members[PeerId(peer)]
        if known is None or known[2] != belonging:
            yield _belongs(one)
        elif known[1] != role:
            yield _entry(What.ROLE, str(one.admitted_by), one, f"was {known[1]}")
    if before.policy != after.policy:
        told = f"sha256 {after.policy}" if after.policy else "the file is gone"
        yield Entry(What.POLICY, OWNER, "policy.yaml", why=told)
    if before.lending != after.lending:
        yield Entry(What.LENDING, OWNER, after.lending, why=f"was {before.lending}")


def _belongs(one: Enrolled) -> Entry:
    match one.belonging:
        case Belonging.MEMBER:
            return _entry(What.ADMITTED, str(one.admitted_by), one, one.through)
        case Belonging.LEFT:
            return _entry(What.LEFT, str(one.peer_id), one)
        case Belonging.REVOKED:
            return _entry(What.REVOKED, "roster", one, one.why)


def _entry(what: What, who: str, one: Enrolled, why: str = "") -> Entry:
    return Entry(what, who, str(one.peer_id), one.name, one.role.value, why)
