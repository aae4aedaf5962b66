"""`dstack ls`: what a run kept."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run")
@click.argument("prefix", default="")
@click.option(
    "-r", "--recursive", is_flag=True, help="Every file, not only the top of each folder."
)
@click.option("-t", "--total", is_flag=True, help="One line for each artifact.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print paths alone.")
@click.pass_obj
def ls(
    home: Home, run: str, prefix: str, recursive: bool, total: bool, as_json: bool, quiet: bool
) -> None:
    """List what a RUN, a :TAG or a WORKFLOW:TAG kept, below PREFIX."""
    from dstack_cli.output.forms import chosen
    from dstack_cli.shelves import Looking, list_kept

    list_kept(home, run, Looking(prefix, recursive, total), chosen(as_json, quiet))
