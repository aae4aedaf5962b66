"""`dstack mesh`: make, join and look at a mesh."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


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
    type=click.Choice(["reader", "submitter", "runner"]),
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

    Where an agent of this home runs it serves the invitation; otherwise this command stays until
    the invitation was used or expired.
    """
    from dstack_cli.joining import invite_one

    return invite_one(home, role, minutes * 60, as_json)


@mesh.command()
@home_option
@click.argument("code")
@click.argument("address", required=False, metavar="[HOST:PORT]")
@click.option("--yes", is_flag=True, help="Do not ask whether the four words are the same.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def join(home: Home, code: str, address: str | None, yes: bool, as_json: bool) -> None:
    """Join the mesh that CODE invites to ("-" reads it from standard input).

    HOST:PORT is needed only where multicast does not reach the inviter.
    """
    from dstack_cli.joining import join_one

    join_one(home, code, address, yes, as_json)


@mesh.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def members(home: Home, as_json: bool) -> None:
    """Show this home's mesh and the members that are known here."""
    from dstack_cli.joining import show_members

    show_members(home, as_json)


@mesh.command()
@home_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def leave(home: Home, yes: bool) -> None:
    """Leave the mesh: forget its certificates. The root key goes too, if it is here."""
    from dstack_cli.joining import leave_mesh

    leave_mesh(home, yes)
