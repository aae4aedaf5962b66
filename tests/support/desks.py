"""The inviter's side of an invitation, without a network."""

from dstack_mesh.clock import SystemClock
from dstack_mesh.trust.authority import Authority
from dstack_mesh.trust.desk import Desk
from dstack_mesh.trust.invite import Code, Invite, Live
from dstack_mesh.trust.invites import InviteBook
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.enrolment import Enrolment
from dstack_mesh.wire.roster import open_keeper, scribe_of
from support.meshes import Mesh

CLOCK = SystemClock()
LISTENER = b"l" * 32
"""Hash of the listener's certificate."""


def desk_of(mesh: Mesh, code: Code, tries: int = 5) -> Desk:
    """The inviter's side of an invitation."""
    membership = mesh.membership
    enrolment = Enrolment(open_keeper(mesh.root, membership), scribe_of(mesh.root, membership))
    invite = Invite(
        code.invite_id, membership.mesh_id, Role.RUNNER, CLOCK.elapsed() + 86_400, Live(tries)
    )
    book = InviteBook(mesh.root)
    book.write(invite, CLOCK.now())
    return Desk(
        Authority(mesh.root),
        enrolment,
        book,
        code,
        invite,
        LISTENER,
        CLOCK,
        lambda: (),
        lambda event: None,
    )
