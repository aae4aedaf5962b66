"""`dstack explain`: why a run waits."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def explain(home: Home, run: str, as_json: bool) -> int:
    """Say why a RUN waits (default: the last one), agent by agent, and what would change that."""
    from dstack_cli.explaining import explain as tell

    return tell(home, run, as_json)
