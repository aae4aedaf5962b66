"""`dstack mesh`: make, join and look at a mesh."""

from pathlib import Path

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home

VOID = click.option(
    "--void-certificates",
    "void",
    is_flag=True,
    help="Void what it signed: those whom it let in join again. For the root.",
)


@click.group()
@home_option
def mesh() -> None:
    """Make, join and look at a mesh: machines that trust one root."""


@mesh.command()
@home_option
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(home: Home, name: str, as_json: bool) -> None:
    """Make a mesh; this home keeps its root key and may invite."""
    from dstack_cli.joining import create_here

    create_here(home, name, as_json)


@mesh.command()
@home_option
@click.option(
    "--role",
    type=click.Choice(["reader", "submitter", "runner", "admin"]),
    default="runner",
    show_default=True,
    help="What the newcomer may do.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.05, 24 * 60),
    default=10,
    show_default=True,
    help="How long the invitation lives.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; its first line is the invitation."
)
@click.pass_obj
def invite(home: Home, role: str, minutes: float, as_json: bool) -> int:
    """Invite one machine: prints a code that works once.

    For the root and the admins that it invited; the root alone invites admins. Where an agent of
    this home runs it serves the invitation; otherwise this command stays until the invitation was
    used or expired.
    """
    from dstack_cli.joining import invite_one

    return invite_one(home, role, minutes * 60, as_json)


@mesh.command()
@home_option
@click.argument("code")
@click.argument("address", required=False, metavar="[HOST:PORT]")
@click.option("--yes", is_flag=True, help="Do not ask whether the four words are the same.")
@click.option("--name", help="What others shall call this machine. Default: its host name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def join(
    home: Home, code: str, address: str | None, yes: bool, name: str | None, as_json: bool
) -> None:
    """Join the mesh that CODE invites to ("-" reads it from standard input).

    HOST:PORT is needed only where multicast does not reach the inviter.
    """
    from dstack_cli.joining import join_one

    join_one(home, code, address, yes, as_json, name)


@mesh.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def members(home: Home, as_json: bool) -> None:
    """Show who belongs to the mesh, as what, and who was let in or shut out by whom."""
    from dstack_cli.members import show_members

    show_members(home, as_json)


@mesh.command()
@home_option
@click.argument("name")
@click.option("--stop", is_flag=True, help="End the jobs and runs that it gave to agents, too.")
@VOID
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def revoke(home: Home, name: str, stop: bool, void: bool, yes: bool, as_json: bool) -> None:
    """Shut a member out for ever, by a beginning of its name or id.

    Every agent that is reached ends its open calls at once; the others do when they are back.
    """
    from dstack_cli.governing import revoke_member

    revoke_member(home, name, stop, void, yes, as_json)


@mesh.command()
@home_option
@click.argument("name")
@click.argument("role", type=click.Choice(["reader", "submitter", "runner", "admin"]))
@VOID
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def role(home: Home, name: str, role: str, void: bool, as_json: bool) -> None:
    """Give a member another role. Only the mesh's root makes and unmakes admins."""
    from dstack_cli.governing import assign_role
    from dstack_mesh.trust.membership import Role

    assign_role(home, name, Role(role), void, as_json)


@mesh.command("require-protocol")
@home_option
@click.argument("number", type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def require_protocol(home: Home, number: int, as_json: bool) -> None:
    """Shut software that speaks only a protocol older than NUMBER out of new work.

    What runs goes on. For the root.
    """
    from dstack_cli.governing import require_protocol as require

    require(home, number, as_json)


@mesh.command()
@home_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--new-key", is_flag=True, help="Delete this home's key: it comes back as another.")
@click.pass_obj
def leave(home: Home, yes: bool, new_key: bool) -> None:
    """Leave the mesh: tell its agents, forget its certificates, and the root key if it is here."""
    from dstack_cli.joining import leave_mesh

    leave_mesh(home, yes, new_key)


@mesh.command()
@home_option
@click.option("--now", "at_once", is_flag=True, help="Revoke the old key at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rotate(home: Home, at_once: bool, as_json: bool) -> None:
    """Give this home a new key, and so another id; the old key is revoked after 24 h."""
    from dstack_cli.rotating import rotate_key

    rotate_key(home, at_once, as_json)


@mesh.command()
@home_option
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def recovery(home: Home, file: str) -> None:
    """Write the mesh's root key into FILE, which only a passphrase opens."""
    from dstack_cli.recovering import keep_root_key

    keep_root_key(home, Path(file))


@mesh.command()
@home_option
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def restore(home: Home, file: str, as_json: bool) -> None:
    """Make this home the root of the mesh whose key is in FILE."""
    from dstack_cli.recovering import restore_root

    restore_root(home, Path(file), as_json)
