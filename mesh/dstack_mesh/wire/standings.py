"""What the roster says of callers: their role, and who is heard no more, from this moment on.

A server asks before every call. When the roster changes, the open calls of whoever was revoked end
with that reason; those of whoever has another role now end too, and may be made again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from dstack_mesh.faults import Busy, Forbidden, MeshError, Unreachable
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.picture import Belonging, Picture, empty
from dstack_mesh.trust.roster.statement import ASSIGNABLE
from dstack_mesh.wire.caller import Caller, Member

MOST_OPEN = 256
"""Calls of one peer that go on at a time, over all its connections: each may hold a message or two
that nobody reads. A connection has 128."""


Refused = Callable[[Caller | None, str, MeshError], None]


@dataclass(slots=True, eq=False)
class Call:
    """A call, which goes on while its block does. `cut` is why it must end, once it must."""

    who: Caller
    task: asyncio.Task[object]
    open: "dict[PeerId, set[Call]]"
    cut: MeshError | None = None

    def __enter__(self) -> "Call":
        """Raises Busy if the peer has too many calls open."""
        if not isinstance(self.who, Member):
            return self
        calls = self.open.setdefault(self.who.peer_id, set())
        if len(calls) >= MOST_OPEN:
            raise Busy("This peer has too many calls open.", f"At most {MOST_OPEN} go on at once.")
        calls.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        if not isinstance(self.who, Member):
            return
        calls = self.open[self.who.peer_id]
        calls.discard(self)
        if not calls:
            del self.open[self.who.peer_id]


class Standings:
    """Judges the callers of one server. Use from one event loop.

    Args:
        picture: The roster as it is known now.

    Attributes:
        refused: Hears of calls that were refused: by whom (None if nobody can tell), which, why.
    """

    def __init__(self, picture: Callable[[], Picture]) -> None:
        self.refused: Refused = lambda who, method, error: None
        self._picture = picture
        self._open: dict[PeerId, set[Call]] = {}

    def judged(self, who: Caller) -> Caller:
        """The caller with the role that it has now. Raises Forbidden if it is heard no more."""
        if not isinstance(who, Member):
            return who
        picture = self._picture()
        check_belongs(picture, who.peer_id)
        check_issued(picture, who)
        role = picture.role(who.peer_id, named_role(picture, who))
        return who if role is who.role else replace(who, role=role)

    @property
    def protocol(self) -> int:
        """The oldest protocol whose speakers get and take new work."""
        return self._picture().protocol

    def during(self, certified: Caller) -> Call:
        """A call of this caller, to be entered. Raises Forbidden if it is heard no more."""
        task = asyncio.current_task()
        assert task is not None
        return Call(self.judged(certified), task, self._open)

    def changed(self, picture: Picture) -> None:
        """Ends the calls of whoever was revoked, left, or has another role now."""
        for peer_id, calls in list(self._open.items()):
            for call in list(calls):
                if call.cut is None:  # else it is ending, which nobody interrupts
                    call.cut = _why_end(picture, peer_id, call)
                    if call.cut is not None:
                        call.task.cancel()


def of_nobody() -> Standings:
    """For a server without a roster: certificates say everything."""
    nothing = empty(MeshId(""))
    return Standings(lambda: nothing)


def check_belongs(picture: Picture, peer_id: PeerId) -> None:
    """Raises Forbidden if the roster says that a peer is a member no more."""
    match picture.belonging(peer_id):
        case Belonging.REVOKED:
            raise Forbidden(
                "This peer was revoked.",
                f"By {picture.called(picture.members[peer_id].revoked_by)}; the mesh's roster "
                f"admits {peer_id} never again.",
                "Ask for a new invitation; this home needs a new key for it: "
                "`dstack mesh leave --new-key`, then `dstack mesh join CODE`.",
                code="revoked",
            )
        case Belonging.LEFT:
            raise Forbidden(
                "This peer left the mesh.",
                f"{peer_id} said so itself.",
                "Join again: `dstack mesh join CODE`.",
                code="left-the-mesh",
            )
        case Belonging.MEMBER | None:
            return


def check_issued(picture: Picture, who: Member) -> None:
    """Raises Forbidden if a member's certificate was signed by somebody who may no more."""
    if not picture.honours(who.issuer, who.peer_id):
        raise Forbidden(
            "Whoever signed this peer's certificate may sign none any more.",
            f"The mesh's roster says so of {who.issuer}, and admits {who.peer_id} by nobody else.",
            "Join again: `dstack mesh invite` on another machine that may invite, then "
            "`dstack mesh join CODE` here.",
            code="issuer-removed",
        )


def named_role(picture: Picture, who: Member) -> Role:
    """The role in a certificate, as far as who signed it may give it: only the root all of them."""
    if who.issuer in (None, PeerId(picture.mesh_id)) or who.role in ASSIGNABLE:
        return who.role
    return Role.READER


def _why_end(picture: Picture, peer_id: PeerId, call: Call) -> MeshError | None:
    try:
        check_belongs(picture, peer_id)
        if isinstance(call.who, Member):
            check_issued(picture, call.who)
    except Forbidden as refused:
        return refused
    if isinstance(call.who, Member) and picture.role(peer_id, call.who.role) is not call.who.role:
        return Unreachable(
            "The caller has another role now.",
            "The mesh's roster changed while the call went on.",
            "Call again.",
            code="role-changed",
        )
    return None
