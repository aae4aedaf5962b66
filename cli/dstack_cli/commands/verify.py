"""`dstack verify`: what is proved of a run, and what is not."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def verify(home: Home, run: str, as_json: bool) -> int:
    """Check every signature of a RUN (default: the last one); exits with 1 if one does not hold."""
    from dstack_cli.verifying import verify_run

    return verify_run(home, run, as_json)
