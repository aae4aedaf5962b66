"""`dstack push`: runs to a remote."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("runs", nargs=-1, metavar="[RUN | :TAG]...")
@click.option("--remote", default="", metavar="NAME", help="The remote, if not the default one.")
@click.option("--again", is_flag=True, help="Send also what is there, over it: repairs damage.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def push(
    home: Home, runs: tuple[str, ...], remote: str, again: bool, as_json: bool, quiet: bool
) -> int:
    """Copy RUNs that ended to a remote: what is said of them, artifacts, logs, tags.

    Without a RUN: those that were started with --remote and have ended since.
    """
    from dstack_cli.remotes import pushing

    return pushing.push(home, pushing.Wish(runs, remote, again), as_json, quiet)
