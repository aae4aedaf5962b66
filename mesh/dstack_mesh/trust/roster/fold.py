"""From a set of statements to what they come to. Pure; the order in which they came is no input.

- The root key may say everything. An admin admits, gives the roles reader, submitter and runner,
  and revokes; it touches neither admins nor the root. Anybody says of itself that it leaves.
- Who is an admin follows from the root's statements alone.
- A removed admin's statements stand up to the one that the removal names, on that branch. Of those
  beyond, only that it leaves.
- A revocation that stands beats everything, for ever: it counts even if statements before it are
  missing. Only the root undoes one, by removing the admin who signed it with an earlier limit, or
  by making an admin of the revoked.
- Of several roles the latest counts. Times grow along what issuers knew, so a later word wins.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.chain import Chain
from dstack_mesh.trust.roster.picture import Belonging, Enrolled, Picture
from dstack_mesh.trust.roster.statement import (
    ASSIGNABLE,
    AddAdmin,
    AddIssuer,
    Admit,
    Assign,
    Leave,
    RemoveAdmin,
    RemoveIssuer,
    RequireProtocol,
    Revoke,
    Sealed,
)

Chains = Mapping[PeerId, Chain]


def picture_of(mesh_id: MeshId, chains: Chains) -> Picture:
    """What the statements in these chains come to."""
    order = _order_of(mesh_id, chains)
    file = _File()
    for one in order.standing(chains):
        file.note(one)
    subjects = set(file.admits) | set(file.revokes) | order.admins
    members = [file.enrolled(subject, subject in order.admins) for subject in sorted(subjects)]
    serving = (one.peer_id for one in members if one.belonging is Belonging.MEMBER)
    return Picture(
        mesh_id=mesh_id,
        heads={issuer: one.head for issuer, one in chains.items() if one.grounded},
        members={one.peer_id: one for one in members},
        admins=order.admins & frozenset(serving),
        issuers={key: holder for key, holder in file.issuers.items() if key not in file.voided},
        voided=frozenset(file.voided),
        forked=tuple(sorted(issuer for issuer, one in chains.items() if one.forked_at)),
        protocol=file.protocol,
    )


def governors(mesh_id: MeshId, chains: Chains) -> frozenset[PeerId]:
    """The root, and everybody whom it ever made an admin. Only grows as statements arrive."""
    root = _facts_of_root(mesh_id, chains)
    return frozenset({PeerId(mesh_id)} | {one.subject for one in root if isinstance(one, AddAdmin)})


def unmade(mesh_id: MeshId, chains: Chains) -> frozenset[PeerId]:
    """Everybody whom the root made an admin no more. Only grows as statements arrive."""
    root = _facts_of_root(mesh_id, chains)
    return frozenset(one.subject for one in root if isinstance(one, RemoveAdmin))


def spoken_of(chains: Chains, governing: frozenset[PeerId]) -> frozenset[PeerId]:
    """Everybody whom a governor ever admitted. Only grows as statements arrive."""
    facts = (
        one.statement.fact
        for issuer in governing & chains.keys()
        for one in chains[issuer].grounded.values()
    )
    return frozenset(fact.subject for fact in facts if isinstance(fact, Admit))


def void(mesh_id: MeshId, chains: Chains) -> frozenset[bytes]:
    """What removed admins said beyond their limits. It counts never again, whatever arrives."""
    order = _order_of(mesh_id, chains)
    removed = order.limits.keys() & order.ever & chains.keys() - {order.root}
    return frozenset(one for issuer in removed for one in order.beyond(issuer, chains[issuer]))


@frozen
class _Order:
    """Who may say what."""

    root: PeerId
    ever: frozenset[PeerId]
    limits: Mapping[PeerId, tuple[RemoveAdmin, ...]]
    founders: frozenset[PeerId]

    @property
    def admins(self) -> frozenset[PeerId]:
        return self.ever - frozenset(self.limits)

    def standing(self, chains: Chains) -> Iterator[Sealed]:
        """The statements that count."""
        for issuer, chain in chains.items():
            if issuer == self.root:
                yield from chain.grounded.values()
                yield from _revoking(chain.loose)
            elif issuer in self.ever:
                yield from filter(self._allowed, self._of_admin(issuer, chain))
            else:
                yield from (one for one in chain.grounded.values() if _leaves(one))

    def _of_admin(self, issuer: PeerId, chain: Chain) -> Iterator[Sealed]:
        beyond = self.beyond(issuer, chain)
        said = (*chain.grounded.values(), *_revoking(chain.loose))
        return (one for one in said if one.digest not in beyond)

    def beyond(self, issuer: PeerId, chain: Chain) -> frozenset[bytes]:
        """What a removed admin said and what counts never again."""
        limits = [(one, chain.up_to(one.last_digest)) for one in self.limits.get(issuer, ())]
        said = (*chain.grounded.values(), *chain.loose) if limits else ()
        return frozenset(
            one.digest
            for one in said
            if not _leaves(one) and not all(_within(one, *limit) for limit in limits)
        )

    def _allowed(self, one: Sealed) -> bool:
        match one.statement.fact:
            case Admit(subject=subject, role=role) | Assign(subject, role):
                return role in ASSIGNABLE and not self._protected(subject)
            case Revoke(subject=subject):
                return not self._protected(subject)
            case _:
                return _leaves(one)

    def _protected(self, subject: PeerId) -> bool:
        return subject in self.admins or subject in self.founders or subject == self.root


def _order_of(mesh_id: MeshId, chains: Chains) -> _Order:
    facts = _facts_of_root(mesh_id, chains)
    limits: dict[PeerId, tuple[RemoveAdmin, ...]] = {}
    for fact in facts:
        if isinstance(fact, RemoveAdmin):
            limits[fact.subject] = (*limits.get(fact.subject, ()), fact)
    return _Order(
        root=PeerId(mesh_id),
        ever=frozenset(one.subject for one in facts if isinstance(one, AddAdmin)),
        limits=limits,
        founders=frozenset(
            one.subject for one in facts if isinstance(one, Admit) and one.role is Role.ROOT
        ),
    )


def _facts_of_root(mesh_id: MeshId, chains: Chains) -> list[object]:
    root = chains.get(PeerId(mesh_id))
    return [one.statement.fact for one in root.grounded.values()] if root else []


def _revoking(loose: Iterable[Sealed]) -> Iterator[Sealed]:
    return (one for one in loose if isinstance(one.statement.fact, Revoke))


def _leaves(one: Sealed) -> bool:
    return isinstance(one.statement.fact, Leave)


def _within(one: Sealed, limit: RemoveAdmin, line: frozenset[bytes]) -> bool:
    """Whether a removed admin had said this before its limit, on the branch that was accepted."""
    return one.digest in line if line else one.statement.seq <= limit.last_seq


def _by_time(one: Sealed) -> tuple[object, ...]:
    said = one.statement
    return said.at, said.seq, said.issuer, one.digest


@dataclass(slots=True, eq=False)
class _File:
    """The statements that count, by whom they are about."""

    admits: dict[PeerId, list[Sealed]] = field(default_factory=lambda: defaultdict(list))
    assigns: dict[PeerId, list[Sealed]] = field(default_factory=lambda: defaultdict(list))
    revokes: dict[PeerId, list[Sealed]] = field(default_factory=lambda: defaultdict(list))
    left: set[tuple[PeerId, bytes]] = field(default_factory=set[tuple[PeerId, bytes]])
    issuers: dict[PeerId, PeerId] = field(default_factory=dict[PeerId, PeerId])
    voided: set[PeerId] = field(default_factory=set[PeerId])
    protocol: int = 0

    def note(self, one: Sealed) -> None:
        """Files a statement that counts."""
        match one.statement.fact:
            case Admit(subject=subject):
                self.admits[subject].append(one)
            case Assign(subject):
                self.assigns[subject].append(one)
            case Revoke(subject=subject):
                self.revokes[subject].append(one)
            case Leave(admissions):
                self.left.update((one.statement.issuer, digest) for digest in admissions)
            case AddIssuer(subject, holder):
                self.issuers[subject] = max(holder, self.issuers.get(subject, holder))
            case RemoveIssuer(subject):
                self.voided.add(subject)
            case RequireProtocol(protocol):
                self.protocol = max(self.protocol, protocol)
            case _:
                pass

    def enrolled(self, subject: PeerId, admin: bool) -> Enrolled:
        """What is known of one subject."""
        admits = sorted(self.admits.get(subject, ()), key=_by_time)
        open_ones = [one for one in admits if (subject, one.digest) not in self.left]
        revoked = min(self.revokes.get(subject, ()), key=_by_time, default=None)
        ends = [one.statement.fact for one in self.revokes.get(subject, ())]
        newest = (open_ones or admits or [None])[-1]
        admit = newest.statement.fact if newest else None
        known = isinstance(admit, Admit)
        belonging = Belonging.MEMBER if open_ones or (admin and not admits) else Belonging.LEFT
        why = revoked.statement.fact if revoked else None
        return Enrolled(
            peer_id=subject,
            name=admit.name if known else "",
            role=Role.ADMIN if admin else self._role(subject, open_ones or admits),
            belonging=belonging if revoked is None else Belonging.REVOKED,
            admitted_by=newest.statement.issuer if newest else PeerId(""),
            through=admit.through if known else "",
            admitted_at=newest.statement.at if newest else None,
            expires_at=admit.expires_at if known else None,
            admissions=tuple(one.digest for one in open_ones),
            why=why.why if isinstance(why, Revoke) else "",
            stop=any(isinstance(end, Revoke) and end.stop for end in ends),
            revoked_by=revoked.statement.issuer if revoked else PeerId(""),
        )

    def _role(self, subject: PeerId, admits: list[Sealed]) -> Role:
        said = max([*admits, *self.assigns.get(subject, ())], key=_by_time, default=None)
        fact = said.statement.fact if said else None
        return fact.role if isinstance(fact, Admit | Assign) else Role.READER
