"""Keeps a mesh's root key in a file, and makes another home the root with it."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from dstack_cli import embedded
from dstack_cli.governing import Told, seated
from dstack_cli.joining import membership_shape
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document
from dstack_cli.reach import carry_out
from dstack_mesh.home import Home
from dstack_mesh.own_name import own_name
from dstack_mesh.trust.membership import Membership, Role
from dstack_mesh.trust.recovery import restore, write_recovery
from dstack_mesh.trust.roster.enrolment import unused_name
from dstack_mesh.trust.roster.statement import Admit

NOT_SAID = (
    "No agent answered, so nobody knows yet: when one does, run `dstack mesh restore FILE` again."
)


def keep_root_key(home: Home, path: Path) -> None:
    """Writes the recovery file."""
    membership = write_recovery(home, path, _passphrase(twice=True))
    output = chosen()
    output.talk(f'The root key of the mesh "{membership.mesh_name}" is in {path}.')
    output.talk("Keep it away from this machine. Whoever has it and the passphrase is the root.")


def restore_root(home: Home, path: Path, as_json: bool) -> None:
    """Makes this home the root."""
    home.prepare()
    joined = Membership.load(home) is not None
    membership = restore(home, path, _passphrase(twice=False), datetime.now(UTC))
    if not joined:
        embedded.retire(home)
    told = carry_out(_announce(home, membership))
    output = chosen(as_json)
    said = f'This home is the root of the mesh "{membership.mesh_name}".'
    output.document(Document(membership_shape(membership), said))
    if not as_json:
        output.talk(told.sentence() if told else NOT_SAID)
        output.talk("If the old machine may be in other hands: dstack mesh revoke its name.")


async def _announce(home: Home, membership: Membership) -> Told | None:
    # What we say must follow what the root said before, which agents know: else it would look as
    # if the root said two things at once.
    async with seated(home) as seat:
        if not seat.keeper.picture.heads:
            return None
        name = unused_name(seat.keeper.picture, membership.peer_id, own_name(os.environ))
        admission = Admit(membership.peer_id, Role.ROOT, name, "restore", membership.not_after)
        await seat.issue(seat.governor("Restoring"), [admission])
        return await seat.tell()


def _passphrase(twice: bool) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    typed: str = click.prompt(
        "Passphrase", hide_input=True, confirmation_prompt=twice, err=True, type=str
    )
    return typed
