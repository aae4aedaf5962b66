"""`dstack cp`: files of a run to this machine."""

from pathlib import Path

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run")
@click.argument("path")
@click.argument("dest", type=click.Path(path_type=Path))
@click.pass_obj
def cp(home: Home, run: str, path: str, dest: Path) -> None:
    """Copy PATH of a RUN, a :TAG or a WORKFLOW:TAG to DEST. Every byte is checked by its hash."""
    from dstack_cli.shelves import fetch

    fetch(home, run, path, dest)
