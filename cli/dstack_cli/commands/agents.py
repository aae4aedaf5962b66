"""`dstack agents`: who is there; `add` makes a machine that ssh reaches one of them."""

import click

from dstack_cli.output.forms import chosen
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.group(invoke_without_command=True)
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.option("-v", "--verbose", is_flag=True, help="Say how jobs are kept from the machine.")
@click.pass_context
def agents(ctx: click.Context, as_json: bool, quiet: bool, verbose: bool) -> None:
    """List the agents of the mesh: where they are, how they were found, what is free."""
    if ctx.invoked_subcommand is None:
        _show(ctx.obj, as_json, quiet, verbose)
    elif as_json or quiet or verbose:
        from dstack_cli.misused import Misused

        what = f"Flags of `{ctx.invoked_subcommand}` come after it."
        hint = f"dstack agents {ctx.invoked_subcommand} --help"
        raise Misused(what, "Those before it are for the list of agents.", hint, code="usage")


@agents.command("list")
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.option("-v", "--verbose", is_flag=True, help="Say how jobs are kept from the machine.")
@click.pass_obj
def list_(home: Home, as_json: bool, quiet: bool, verbose: bool) -> None:
    """The same as `dstack agents` alone."""
    _show(home, as_json, quiet, verbose)


def _show(home: Home, as_json: bool, quiet: bool, verbose: bool) -> None:
    from dstack_cli.output.agents import agents_listing
    from dstack_cli.reach import Private, carry_out, reaching

    async def look() -> None:
        from datetime import UTC, datetime

        async with reaching(home, Private.IF_ALONE) as reach:
            found, adverts = await reach.everybody()
            reach.check_heard(found)
            listing = agents_listing(found, adverts, datetime.now(UTC), verbose)
            chosen(as_json, quiet).listing(listing)

    carry_out(look())


@agents.command()
@home_option
@click.argument("host", metavar="[USER@]HOST[:PORT]")
@click.option("--name", default="", help="What members call it; its host name by default.")
@click.option("--identity", default="", metavar="FILE", help="The ssh key to use.")
@click.option(
    "-o", "options", multiple=True, metavar="OPTION", help="An option of ssh, as in `ssh -o`."
)
@click.option(
    "--listen",
    default="",
    metavar="HOST:PORT",
    help="Where the agent listens there. Default: 0.0.0.0:7420.",
)
@click.option(
    "--remote-home",
    default="",
    metavar="DIR",
    help="Where the agent keeps everything there. Default: ~/.local/share/dstack.",
)
@click.option("--no-service", is_flag=True, help="Start it as a plain process, without systemd.")
@click.option("-y", "--yes", is_flag=True, help="Make a mesh without asking if there is none.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def add(
    home: Home,
    host: str,
    name: str,
    identity: str,
    options: tuple[str, ...],
    listen: str,
    remote_home: str,
    no_service: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make a machine that your ssh reaches an agent of this mesh.

    It needs Linux and Python 3.11 or newer there, no internet and no administrator. Run again, it
    repairs and updates.
    """
    from dstack_cli.enrolling.adding import Wish
    from dstack_cli.enrolling.command import add_here
    from dstack_cli.enrolling.ssh import Dialing
    from dstack_cli.enrolling.target import check_identity, check_listen, check_name, parse_target

    dialing = Dialing(parse_target(host), check_identity(identity), options)
    check_name(name)
    check_listen(listen)
    add_here(home, Wish(dialing, name, listen, remote_home, not no_service), yes, as_json)


@agents.command()
@home_option
@click.argument("name", metavar="NAME")
@click.option("--purge", is_flag=True, help="Remove its data there too: keys, logs, artifacts.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before its data is removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def remove(home: Home, name: str, purge: bool, yes: bool, as_json: bool) -> None:
    """Take back what `add` did: end the agent there and remove its service and software."""
    from dstack_cli.enrolling.command import remove_here

    remove_here(home, name, purge, yes, as_json)
