"""`dstack version`."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.version import installed_version


@click.command()
@home_option
def version() -> None:
    """Print the version."""
    click.echo(f"dstack {installed_version()}")
