"""Makes a mesh, invites into it, joins one and leaves it."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

import click

from dstack_cli import embedded
from dstack_cli.consent import require_agreed
from dstack_cli.misused import Misused
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document, Json, Output
from dstack_cli.output.runs import rfc3339
from dstack_cli.reach import Private, carry_out, reaching
from dstack_mesh.faults import Broken, MeshError, Missing, Refused, TooLate, Unreachable
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import Address
from dstack_mesh.own_name import own_name
from dstack_mesh.trust.invite import Burned, Expired, Live, State, Used, why_not
from dstack_mesh.trust.membership import Membership, Role, holds_root
from dstack_mesh.trust.membership import leave as forget
from dstack_mesh.trust.roster.picture import RUNNING

if TYPE_CHECKING:
    from dstack_mesh.trust.desk import DeskEvent
    from dstack_mesh.wire.admission import Invitation

MESH_SCHEMA = "dstack.mesh/v1"
NOT_JOINED = 1


def create_here(home: Home, name: str, as_json: bool) -> None:
    """Makes a mesh whose root key stays in this home."""
    from dstack_mesh.trust.authority import create_mesh
    from dstack_mesh.wire.roster import record_founder

    home.prepare()
    membership = create_mesh(home, name, datetime.now(UTC))
    embedded.retire(home)
    record_founder(home, membership, own_name(os.environ), datetime.now(UTC))
    output = chosen(as_json)
    output.document(
        Document(membership_shape(membership), f'Made the mesh "{membership.mesh_name}".')
    )
    if not as_json:
        output.talk("Next: dstack-runner start   ·   dstack mesh invite   (once for each machine)")
        output.talk("If this machine is lost, so is the mesh's root: dstack mesh recovery FILE")


def invite_one(home: Home, role: str, seconds: float, as_json: bool) -> int:
    """Invites one newcomer; returns the exit code."""
    from dstack_mesh.wire.admission import Invitation, serve_invitation

    Membership.require(home)

    def tell(invitation: Invitation) -> None:
        _tell_invitation(invitation, role, as_json)

    async def work() -> State | None:
        served = await _by_the_agent(home, role, seconds)
        if served is not None:
            tell(served)
            return None if as_json or not sys.stderr.isatty() else await _watched(home, served)
        seeds = await _seeds(home)
        return await serve_invitation(
            home, Role(role), seconds, tell, on_event=_tell_event, seeds=lambda: seeds
        )

    state = carry_out(work())
    match state:
        case None | Used() | Live():
            return 0
        case Expired() | Burned():
            if not as_json:
                raise why_not(state)
            return NOT_JOINED
        case _:
            assert_never(state)


def join_one(
    home: Home, code: str, address: str | None, yes: bool, as_json: bool, name: str | None = None
) -> None:
    """Joins this home to a mesh."""
    from dstack_mesh.wire.newcomer import Words, join_mesh

    asks = sys.stdin.isatty() and code != "-"
    if not yes and not asks:
        raise Misused(
            "Nobody can be asked whether the four words are the same.",
            "Standard input is no terminal.",
            f"dstack mesh join {code} --yes",
            code="usage",
        )

    def confirm(words: Words) -> bool:
        click.echo(f"The inviter's screen must show: {'-'.join(words)}", err=True)
        return yes or click.confirm("Does it?", err=True)

    text = sys.stdin.readline().strip() if code == "-" else code
    home.prepare()
    renewed = Membership.load(home) is not None
    membership = carry_out(join_mesh(home, text, address, confirm, name=name))
    if not renewed:
        embedded.retire(home)
    output = chosen(as_json)
    joined = f'Joined the mesh "{membership.mesh_name}" as {membership.role.value}.'
    output.document(Document(membership_shape(membership), joined))
    if renewed and embedded.answers(home):
        output.talk("An agent of this home still uses the old certificate: restart it.")
    elif not as_json:
        takes = membership.role in RUNNING
        then = "to take jobs here: dstack-runner start" if takes else "dstack ps"
        output.talk(f"Next: dstack agents   ·   {then}")


def leave_mesh(home: Home, yes: bool, new_key: bool = False) -> None:
    """Tells the agents that this home leaves, and forgets the mesh."""
    membership = Membership.require(home)
    last = " Its root key is here: nobody can be invited any more." if holds_root(home) else ""
    question = f'Leave the mesh "{membership.mesh_name}"?{last}'
    require_agreed(question, yes, "dstack mesh leave --yes")
    output = chosen()
    _tell_that_we_leave(home, membership, output)
    forget(home)
    if new_key:
        Identity.forget(home)
    output.talk(f'Left the mesh "{membership.mesh_name}".')
    if embedded.answers(home):
        output.talk("An agent of this home still runs as its member: restart or stop it.")


def _tell_that_we_leave(home: Home, membership: Membership, output: Output) -> None:
    from dstack_cli.governing import say_that_we_leave

    try:
        told = carry_out(say_that_we_leave(home, membership))
    except MeshError as failed:  # leaving is possible with an expired certificate, too
        output.talk(f"Nobody could be told: {failed}")
        return
    if told is not None:
        output.talk(told.sentence())


async def _by_the_agent(home: Home, role: str, seconds: float) -> "Invitation | None":
    """An invitation that the agent of this home serves; None if it does not or does not run."""
    if not embedded.answers(home):
        return None
    from dstack_mesh.wire.admission import ask_invitation
    from dstack_mesh.wire.channels import Channels

    channels = Channels(home)
    try:
        channel = channels.to_local(home.agent_socket)
        return await ask_invitation(channel, Role(role), max(1, int(seconds)))
    except (Broken, Missing, TooLate, Unreachable):
        return None
    except Refused as error:
        if error.code != "too-old":  # a private agent does not serve invitations
            raise
        return None
    finally:
        await channels.close()


async def _watched(home: Home, invitation: "Invitation") -> State | None:
    """Shows what happens to an invitation that the agent serves; None if it cannot tell."""
    from dstack_mesh.wire.admission import watch_invitation
    from dstack_mesh.wire.channels import Channels

    click.echo("The agent of this home serves it; Ctrl-C leaves it to the agent.", err=True)
    channels = Channels(home)
    try:
        channel = channels.to_local(home.agent_socket)
        async for event in watch_invitation(channel, invitation.code):
            match event:
                case Used() | Expired() | Burned() | Live():
                    return event
                case _:
                    _tell_event(event)
    except MeshError:
        return None
    finally:
        await channels.close()
    return None


async def _seeds(home: Home) -> tuple[Address, ...]:
    """Agents for the newcomer to begin with."""
    try:
        async with reaching(home, Private.NEVER) as reach, asyncio.timeout(1.0):
            return tuple(
                address
                for one in await reach.known()
                for address in one.addresses[:1]
                if one.answer is not None and not address.startswith("unix:")
            )
    except (MeshError, TimeoutError):
        return ()


def _tell_invitation(invitation: "Invitation", role: str, as_json: bool) -> None:
    output = chosen(as_json)
    fields: dict[str, Json] = {
        "code": invitation.code,
        "addresses": list(invitation.addresses),
        "expires_at": rfc3339(invitation.expires_at),
        "role": role,
    }
    address = invitation.addresses[0] if invitation.addresses else ""
    output.document(Document(fields, invitation.code))
    if not as_json:
        until = invitation.expires_at.astimezone()
        output.talk(f"Works once, until {until:%H:%M}. On the other machine:")
        join = "dstack-runner join" if Role(role) in RUNNING else "dstack mesh join"
        output.talk(f"  {join} {invitation.code} {address}".rstrip())


def _tell_event(event: "DeskEvent") -> None:
    from dstack_mesh.trust.desk import Greeted, Joined, TriedWrong

    match event:
        case Greeted():
            click.echo(f"The newcomer's screen must show: {'-'.join(event.words)}", err=True)
        case TriedWrong():
            left = f"{event.tries_left} tries left there"
            click.echo(f"Somebody at {event.source} tried a wrong code; {left}.", err=True)
        case Joined():
            click.echo(f"Joined: {event.name} ({event.peer_id})", err=True)
        case _:
            assert_never(event)


def membership_shape(membership: Membership) -> dict[str, Json]:
    """A home's place in a mesh, for scripts."""
    return {
        "schema": MESH_SCHEMA,
        "mesh": membership.mesh_name,
        "id": membership.mesh_id,
        "peer": membership.peer_id,
        "role": membership.role.value,
        "expires_at": rfc3339(membership.not_after),
    }
