"""`dstack attach`."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
@click.option("--no-open", is_flag=True, help="Print links of apps; open none in a browser.")
@click.pass_obj
def attach(home: Home, run: str, as_json: bool, no_open: bool) -> int:
    """Come back to a RUN (default: the last one): its log from the start, then live; its apps too.

    Ctrl-C detaches, as in `dstack run`; the exit code is the run's.
    """
    from dstack_cli.attaching import attach_to

    return attach_to(home, run, as_json, no_open)
