"""`dstack top`: the mesh as it is now, live."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home

EVERY_SECONDS = 2.0


@click.command()
@home_option
@click.option("--once", is_flag=True, help="Print it once and end, also on a terminal.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.5, 3600),
    default=EVERY_SECONDS,
    help="Look again after so long. Default: 2.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON once.")
@click.pass_obj
def top(home: Home, once: bool, interval: float, as_json: bool) -> None:
    """Watch agents and running jobs: what is used of processors, memory and GPUs.

    On a terminal it looks again every two seconds until q or Ctrl-C; elsewhere it prints once.
    """
    from dstack_cli.overview import show_top

    show_top(home, once, interval, as_json)
