"""`dstack restart`: a run that ended goes on from what it kept."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.argument("workflow", default="")
@click.option("-c", "--clear", is_flag=True, help="From nothing: what it kept is not put back.")
@click.option("-d", "--detach", is_flag=True, help="Submit and return.")
@click.option(
    "-f", "--follow", is_flag=True, help="Follow it, which happens anyway.", expose_value=False
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="With -d print the name alone.")
@click.option("--no-open", is_flag=True, help="Print links of apps; open none in a browser.")
@click.pass_obj
def restart(
    home: Home,
    run: str,
    workflow: str,
    clear: bool,
    detach: bool,
    as_json: bool,
    quiet: bool,
    no_open: bool,
) -> int:
    """Start a RUN that ended again (default: the last one), from the same code.

    Its jobs that were done stay done. The others run again as a new run, each with what it had kept
    in its place.
    """
    from dstack_cli.restarting import Wish
    from dstack_cli.restarting import restart as start_again

    return start_again(home, Wish(run, workflow, clear, detach, as_json, quiet, no_open))
