"""Rosters whose statements are really signed, and a lab of issuers that sign them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.signing import Signer
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.scribe import Scribe
from dstack_mesh.trust.roster.statement import AddAdmin, Admit, Fact, Sealed
from dstack_mesh.wire.statements import seal

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@cache
def signer(name: str) -> Signer:
    """The key that this name always has within a run of the tests."""
    return Signer(ec.generate_private_key(ec.SECP256R1()))


def peer(name: str) -> PeerId:
    """The id of that key."""
    return signer(name).peer_id


def mesh_id() -> MeshId:
    """The mesh of the root key."""
    return MeshId(peer("root"))


class Lab:
    """Issuers that each know a roster of their own; `root` is the mesh's."""

    def __init__(self) -> None:
        self.known: dict[str, Roster] = {}
        self.now = NOW

    def roster(self, name: str) -> Roster:
        return self.known.get(name, Roster.of(mesh_id()))

    def say(self, name: str, *facts: Fact) -> list[Sealed]:
        """The issuer says it, as far as it knows the others."""
        self.now += timedelta(seconds=1)
        scribe = Scribe(signer(name), mesh_id(), seal)
        said = scribe.write(self.roster(name), facts, self.now)
        self.known[name] = self.roster(name).merge(Roster.of(mesh_id(), said))
        return said

    def tell(self, name: str, *others: str) -> None:
        """Others learn all that it knows."""
        for other in others:
            self.known[other] = self.roster(other).merge(self.roster(name))


def admit(name: str, role: Role = Role.RUNNER) -> Admit:
    """The admission of a peer under its name."""
    return Admit(peer(name), role, name, "TEST")


def governed(*admins: str) -> Lab:
    """A lab whose root made these admins; they know it."""
    lab = Lab()
    for name in admins:
        lab.say("root", admit(name), AddAdmin(peer(name)))
    lab.tell("root", *admins)
    return lab


def together(statements: Iterable[Sealed]) -> Roster:
    """The roster of these statements."""
    return Roster.of(mesh_id(), statements)
