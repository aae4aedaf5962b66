"""Says something about members in the book of a mesh's root."""

from collections.abc import Sequence
from datetime import UTC, datetime

from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import Fact, Sealed
from dstack_mesh.wire.roster import open_book, scribe_of
from support.meshes import Mesh


def say(mesh: Mesh, *facts: Fact) -> Roster:
    """The root says it."""
    scribe = scribe_of(mesh.root, mesh.membership)

    def write(roster: Roster) -> Sequence[Sealed]:
        return scribe.write(roster, facts, datetime.now(UTC))

    return open_book(mesh.root, mesh.membership.mesh_id).issue(write)
