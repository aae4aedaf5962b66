"""Changes who belongs to the mesh: revokes, gives roles, leaves; and tells the agents at once."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from dstack_cli.consent import require_agreed
from dstack_cli.enrolling.added import recall
from dstack_cli.misused import Misused
from dstack_cli.names import Named, find
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document, Json
from dstack_cli.reach import carry_out
from dstack_cli.searching import EVERYBODY, Patience, search
from dstack_cli.voiding import NOTHING, Voiding, voiding
from dstack_mesh.card import PROTOCOL
from dstack_mesh.faults import Conflict, Forbidden, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.roster.enrolment import unmaking
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.trust.roster.picture import Belonging, Enrolled, Picture
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.scribe import Scribe, not_allowed
from dstack_mesh.trust.roster.statement import (
    AddAdmin,
    Admit,
    Assign,
    Fact,
    Leave,
    RequireProtocol,
    Revoke,
    Sealed,
)
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.greeter import open_roll_call
from dstack_mesh.wire.roster import RosterClient, open_keeper, own_scribe, scribe_of

CHANGE_SCHEMA = "dstack.roster-change/v1"
TELL_SECONDS = 3.0
"""How long an agent may take to be told; the others tell it later."""


@frozen
class Told:
    """Which agents know, and which did not answer."""

    knowing: tuple[str, ...]
    silent: tuple[str, ...]

    def sentence(self) -> str:
        """For people."""
        count = len(self.knowing)
        known = f"{count} agent{'' if count == 1 else 's'} know{'s' if count == 1 else ''}"
        if not self.silent:
            return f"{known} it." if self.knowing else "No agent answered; each learns it later."
        return f"{known} it; {', '.join(self.silent)} learn it when they are back."


@dataclass(slots=True)
class Seat:
    """The roster of this home and the agents that can be told of a change."""

    home: Home
    membership: Membership
    keeper: Keeper
    channels: Channels
    agents: Sequence[KnownAgent]

    async def tell(self) -> Told:
        """Brings the roster together with every agent that answers."""
        out = self.keeper.picture.shut_out()
        asked = [one for one in self.agents if one.card.peer_id not in out]
        heard = await asyncio.gather(*(self._told(one) for one in asked))
        names = [(one.card.name, ok) for one, ok in zip(asked, heard, strict=True)]
        return Told(
            tuple(name for name, ok in names if ok), tuple(name for name, ok in names if not ok)
        )

    async def _told(self, agent: KnownAgent) -> bool:
        if agent.answer is None or not (agent.local or agent.addresses):
            return False
        socket = Address(f"unix:{self.home.agent_socket}")
        address = socket if agent.local else agent.addresses[0]
        try:
            channel = self.channels.to_peer(agent.card.peer_id, address)
            await RosterClient(channel, agent.card.name).exchange(self.keeper, TELL_SECONDS)
        except MeshError as refused:
            # Another one was faster: whoever knows that we left hears us no more.
            return refused.code == "left-the-mesh"
        return True

    async def issue(self, scribe: Scribe, facts: Sequence[Fact]) -> None:
        """Says it, in the book of this home. Raises Busy if that is full."""

        def write(roster: Roster) -> list[Sealed]:
            return scribe.write(roster, facts, datetime.now(UTC))

        await self.keeper.issue(write)

    def governor(self, what: str) -> Scribe:
        """Who says it: the root or an admin. Raises Forbidden where neither is."""
        scribe = scribe_of(self.home, self.membership)
        if not scribe.may_govern(self.keeper.roster):
            raise not_allowed(what)
        return scribe


@asynccontextmanager
async def seated(home: Home, patience: Patience = EVERYBODY) -> AsyncGenerator[Seat]:
    """The roster, brought together with the agents that answer. Raises Refused outside a mesh."""
    membership = Membership.require(home)
    keeper = await asyncio.to_thread(open_keeper, home, membership)
    channels = Channels(home, lambda: keeper.picture)
    try:
        roll = open_roll_call(home, channels, os.environ)
        seat = Seat(home, membership, keeper, channels, await search(roll, patience))
        await seat.tell()
        yield seat
    finally:
        await channels.close()


def revoke_member(home: Home, name: str, stop: bool, void: bool, yes: bool, as_json: bool) -> None:
    """Shuts a member out for ever; `void` takes what it signed with it, then or later."""

    async def work() -> tuple[Named, Voiding, Told]:
        async with seated(home) as seat:
            scribe = seat.governor("Revoking a member")
            meant = member_named(name, seat)
            voided = _voiding(seat, meant, scribe, void)
            picture = seat.keeper.picture
            if voided.facts and picture.belonging(PeerId(meant.id)) is Belonging.REVOKED:
                await seat.issue(scribe, voided.facts)
                return meant, voided, await seat.tell()
            _check_revocable(seat, meant, scribe)
            text = f"Revoke {meant.name} ({meant.id[:8]}…)? Its key is never admitted again."
            text = " ".join([text, *voided.sentences()])
            require_agreed(text, yes, f"dstack mesh revoke {name} --yes")
            revocation = Revoke(PeerId(meant.id), f"revoked as {meant.name}", stop)
            facts = [*_removal(seat.keeper.roster, meant, scribe), *voided.facts, revocation]
            await seat.issue(scribe, facts)
            return meant, voided, await seat.tell()

    meant, voided, told = carry_out(work())
    fields: dict[str, Json] = {"member": meant.name, "id": meant.id}
    _say(f"{meant.name} is revoked.", fields, told, as_json, voided)
    if not as_json and any(one.peer_id == meant.id for one in recall(home)):
        chosen().talk(
            "Its agent runs on, heard by nobody. To take it away: "
            f"dstack agents remove {meant.name}"
        )


def assign_role(home: Home, name: str, role: Role, void: bool, as_json: bool) -> None:
    """Gives a member another role; `void` voids what it signed, whatever it becomes."""

    async def work() -> tuple[Named, Voiding, Told]:
        async with seated(home) as seat:
            scribe = seat.governor("Giving a role")
            meant = member_named(name, seat)
            _check_assignable(seat.keeper.roster, meant, role, scribe)
            voided = _voiding(seat, meant, scribe, void)
            assignment = _assignment(seat.keeper.roster, meant, role)
            await seat.issue(scribe, [*assignment, *voided.facts])
            return meant, voided, await seat.tell()

    meant, voided, told = carry_out(work())
    fields: dict[str, Json] = {"member": meant.name, "id": meant.id, "role": role.value}
    _say(f"{meant.name} is {role.value} from now on.", fields, told, as_json, voided)


def _voiding(seat: Seat, meant: Named, scribe: Scribe, void: bool) -> Voiding:
    if not void:
        return NOTHING
    if not scribe.is_root:
        raise _only_the_root("Voiding what an admin signed")
    return voiding(seat.keeper.picture, meant)


def require_protocol(home: Home, protocol: int, as_json: bool) -> None:
    """Shuts software that speaks only an older protocol out of new work."""

    async def work() -> tuple[list[str], Told]:
        async with seated(home) as seat:
            scribe = seat.governor("Requiring a protocol")
            if not scribe.is_root:
                raise _only_the_root("Requiring a protocol")
            _check_requirable(seat.keeper.picture, protocol)
            await seat.issue(scribe, [RequireProtocol(protocol)])
            cards = [one.card for one in seat.agents]
            return [one.name for one in cards if one.protocol < protocol], await seat.tell()

    too_old, told = carry_out(work())
    fields: dict[str, Json] = {"protocol": protocol, "too_old": list[Json](too_old)}
    _say(f"New work needs protocol {protocol} from now on.", fields, told, as_json)
    if too_old and not as_json:
        chosen().talk(f"Too old until they are updated: {', '.join(too_old)}.")


def _check_requirable(picture: Picture, protocol: int) -> None:
    if protocol > PROTOCOL:
        raise Misused(
            f"This software does not speak protocol {protocol} itself.",
            f"It speaks {PROTOCOL}, and would be shut out of new work too.",
            "Update here first: pip install -U dstack-mesh",
            code="protocol-unknown",
        )
    if protocol < picture.protocol:
        raise Conflict(
            f"Protocol {picture.protocol} is required already.",
            "What is required only grows.",
            code="protocol-required",
        )


async def say_that_we_leave(home: Home, membership: Membership) -> Told | None:
    """Says that this home leaves, so that nobody waits for it; None if nobody knew it came."""
    async with seated(home) as seat:
        own = seat.keeper.picture.members.get(membership.peer_id)
        if own is None or own.belonging is not Belonging.MEMBER or not own.admissions:
            return None
        await seat.issue(own_scribe(home, membership), [Leave(own.admissions)])
        return await seat.tell()


def member_named(text: str, seat: Seat) -> Named:
    """The member that a person means, by a beginning of its name or id.

    Raises:
        Missing: There is none.
        Misused: Several are possible.
    """
    # Of two keys of one name the newer is meant: the other one waits to be revoked.
    enrolled = sorted(seat.keeper.picture.members.values(), key=_age)
    known = [Named(one.name or one.peer_id[:8], one.peer_id) for one in enrolled]
    ids = {one.id for one in known}
    agents = [Named(one.card.name, one.card.peer_id) for one in seat.agents]
    return find(text, [*known, *(one for one in agents if one.id not in ids)], "member")


def _age(one: Enrolled) -> tuple[bool, float]:
    at = one.admitted_at
    return one.belonging is not Belonging.MEMBER, -at.timestamp() if at else 0.0


def _check_revocable(seat: Seat, meant: Named, scribe: Scribe) -> None:
    picture, subject = seat.keeper.picture, PeerId(meant.id)
    if subject == seat.membership.peer_id:
        raise Misused(
            "This home cannot revoke itself.",
            f"{meant.name} is this home.",
            "dstack mesh leave",
            code="revoking-oneself",
        )
    if picture.belonging(subject) is Belonging.REVOKED:
        raise Conflict(
            f"{meant.name} was revoked already.",
            picture.members[subject].why,
            "See `dstack mesh members`.",
            code="already-revoked",
        )
    _check_touchable(picture, meant, scribe)


def _check_assignable(roster: Roster, meant: Named, role: Role, scribe: Scribe) -> None:
    picture, subject = roster.picture, PeerId(meant.id)
    if picture.belonging(subject) is Belonging.REVOKED:
        raise Conflict(
            f"{meant.name} was revoked.",
            "A revoked key has no role ever again.",
            "Invite it anew, with a new key: `dstack mesh leave --new-key` there.",
            code="already-revoked",
        )
    if role is Role.ADMIN and not scribe.is_root:
        raise _only_the_root("Making an admin")
    if role is Role.ADMIN and subject in roster.unmade:
        raise Conflict(
            f"{meant.name} was an admin before.",
            "Who was one is never one again with the same key.",
            "A new key first: `dstack mesh rotate` there.",
            code="was-an-admin",
        )
    _check_touchable(picture, meant, scribe)


def _check_touchable(picture: Picture, meant: Named, scribe: Scribe) -> None:
    subject = PeerId(meant.id)
    protected = subject in picture.admins or picture.role(subject, Role.READER) is Role.ROOT
    if protected and not scribe.is_root:
        raise _only_the_root("Touching an admin or a root")


def _only_the_root(what: str) -> Forbidden:
    return Forbidden(
        f"{what} is for the mesh's root alone.",
        "This home does not hold the root key.",
        "Do it on the machine where `dstack mesh create` was run.",
        code="not-an-admin",
    )


def _assignment(roster: Roster, meant: Named, role: Role) -> list[Fact]:
    subject = PeerId(meant.id)
    known = roster.picture.belonging(subject) is Belonging.MEMBER
    given = Role.RUNNER if role is Role.ADMIN else role
    said: Fact = Assign(subject, given) if known else Admit(subject, given, meant.name, "role")
    if role is Role.ADMIN:
        return [said, AddAdmin(subject)]
    return [*unmaking(roster, subject), said]


def _removal(roster: Roster, meant: Named, scribe: Scribe) -> list[Fact]:
    return unmaking(roster, PeerId(meant.id)) if scribe.is_root else []


def _say(
    sentence: str,
    fields: dict[str, Json],
    told: Told,
    as_json: bool,
    voided: Voiding = NOTHING,
) -> None:
    output = chosen(as_json)
    tail: dict[str, Json] = {"told": list(told.knowing), "silent": list(told.silent)}
    if voided.facts:
        tail["joining_again"] = list(voided.joining_again)
    output.document(Document({"schema": CHANGE_SCHEMA} | fields | tail, sentence))
    if not as_json:
        for said in (*voided.sentences(), told.sentence()):
            output.talk(said)
