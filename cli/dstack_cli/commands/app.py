"""`dstack app`."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.argument("workflow", default="")
@click.option("--no-open", is_flag=True, help="Print the links; open none in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the links as JSON.")
@click.pass_obj
def app(home: Home, run: str, workflow: str, no_open: bool, as_json: bool) -> int:
    """Open the apps of a RUN (default: the last one), or of one WORKFLOW of it.

    Prints each link once its app answers, and stays: the links work until Ctrl-C or the run's end.
    """
    from dstack_cli.opening import open_apps

    return open_apps(home, run, workflow, no_open, as_json)
