"""`dstack agents`."""

import click

from dstack_cli.output.forms import chosen
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def agents(home: Home, as_json: bool, quiet: bool) -> None:
    """List the agents of the mesh: where they are, how they were found, what is free."""
    from dstack_cli.output.agents import agents_listing
    from dstack_cli.reach import Private, carry_out, reaching

    async def look() -> None:
        async with reaching(home, Private.IF_ALONE) as reach:
            chosen(as_json, quiet).listing(agents_listing(await reach.known()))

    carry_out(look())
