"""Voids what an admin signed: the key it issues with, and so every certificate of that key."""

from dstack_cli.misused import Misused
from dstack_cli.names import Named
from dstack_mesh.faults import Conflict
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.picture import Belonging, Picture
from dstack_mesh.trust.roster.statement import RemoveIssuer


@frozen
class Voiding:
    """What is said, and what follows from it.

    Attributes:
        facts: One for each key.
        joining_again: Names of members that it let in last: they need a new invitation.
        root_alone: Whether no admin is left that issues certificates.
    """

    facts: tuple[RemoveIssuer, ...] = ()
    joining_again: tuple[str, ...] = ()
    root_alone: bool = False

    def sentences(self) -> list[str]:
        """For people."""
        if not self.facts:
            return []
        told = ["The certificates that it signed count for nobody any more."]
        if self.joining_again:
            told.append(f"They join again by an invitation: {', '.join(self.joining_again)}.")
        if self.root_alone:
            told.append(
                "Only the mesh's root issues certificates now: keep an agent of its home running, "
                "or they end unrenewed."
            )
        return told


NOTHING = Voiding()


def voiding(picture: Picture, meant: Named) -> Voiding:
    """What voids everything that a member signed.

    Raises:
        Misused: It is the root, whose key the mesh is.
        Conflict: It has no such key, or the root voided it before.
    """
    subject = PeerId(meant.id)
    if picture.role(subject, Role.READER) is Role.ROOT:
        raise Misused(
            "What the root signed cannot be voided.",
            f"{meant.name} holds the key by which this mesh is known.",
            "If that key is in other hands, make a new mesh: `dstack mesh create NAME`.",
            code="voiding-the-root",
        )
    issuers = picture.issuers or {}
    keys = sorted(key for key, holder in issuers.items() if holder == subject)
    if not keys:
        raise Conflict(
            f"{meant.name} issues no certificates.",
            "It never had a key for that, or what it signed is void already.",
            "`dstack mesh members` shows who issues.",
            code="no-issuer",
        )
    others = (holder for holder in issuers.values() if holder != subject)
    return Voiding(
        tuple(map(RemoveIssuer, keys)),
        tuple(sorted(_let_in_by(picture, subject))),
        root_alone=not any(holder in picture.admins for holder in others),
    )


def _let_in_by(picture: Picture, issuer: PeerId) -> list[str]:
    return [
        one.name or one.peer_id[:8]
        for one in picture.members.values()
        if one.admitted_by == issuer and one.belonging is Belonging.MEMBER
    ]
