"""`dstack pull`: runs from a remote."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("runs", nargs=-1, required=True, metavar="(RUN | :TAG)...")
@click.option("--remote", default="", metavar="NAME", help="The remote, if not the default one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def pull(home: Home, runs: tuple[str, ...], remote: str, as_json: bool, quiet: bool) -> None:
    """Copy RUNs from a remote to this home. Every byte is checked by its hash."""
    from dstack_cli.remotes.pulling import pull as bring

    bring(home, runs, remote, as_json, quiet)
