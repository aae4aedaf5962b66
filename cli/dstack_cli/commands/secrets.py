"""`dstack secrets`: values that a job gets and no record holds."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument(
    "words",
    nargs=-1,
    metavar="[list | add NAME [VALUE] | update NAME [VALUE] | delete NAME]",
)
@click.option("-y", "--yes", is_flag=True, help="Replace or forget without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def secrets(home: Home, words: tuple[str, ...], yes: bool, as_json: bool, quiet: bool) -> None:
    """Keep values that jobs of this repository may ask for.

    \b
    dstack secrets add TOKEN            asks for the value and does not show it
    dstack secrets add TOKEN - < file   takes it from standard input

    A value stays in this home. It travels when a job that asks for it is awarded, to that agent.
    """
    from dstack_cli import keeping_secrets
    from dstack_cli.names import misread
    from dstack_cli.output.forms import chosen

    match words:
        case () | ("list",):
            keeping_secrets.show(home, chosen(as_json, quiet))
        case ("add", name):
            keeping_secrets.add(home, name, None, yes)
        case ("add", name, value):
            keeping_secrets.add(home, name, value, yes)
        case ("update", name):
            keeping_secrets.update(home, name, None)
        case ("update", name, value):
            keeping_secrets.update(home, name, value)
        case ("delete", name):
            keeping_secrets.delete(home, name, yes)
        case _:
            raise misread(words[0], ("list", "add", "update", "delete"), "dstack secrets --help")
