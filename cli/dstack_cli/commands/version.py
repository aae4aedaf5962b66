"""`dstack version`."""

import click

from dstack_cli.tree import home_option


def installed_version() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dstack-mesh")
    except PackageNotFoundError:
        return "0 (not installed)"


@click.command()
@home_option
def version() -> None:
    """Print the version."""
    click.echo(f"dstack {installed_version()}")
