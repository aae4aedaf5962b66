"""`dstack stop`."""

import click

from dstack_cli.misused import Misused
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", required=False)
@click.argument("workflow", default="")
@click.option("-x", "--abort", is_flag=True, help="Kill it at once and keep nothing.")
@click.option(
    "-a", "--all", "everything", is_flag=True, help="All runs of yours (with RUN: the same as -x)."
)
@click.option(
    "-y", "--yes", is_flag=True, help="Nothing is asked; for old scripts.", expose_value=False
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def stop(
    home: Home, run: str | None, workflow: str, abort: bool, everything: bool, as_json: bool
) -> int:
    """Stop a RUN, or one JOB of it: politely first, and what it kept is saved. Returns at its end.

    If its agents do not answer, the end is not confirmed and the exit code is 125.
    """
    if run is None and not everything:
        raise Misused(
            "Which run?", "", "dstack stop @   or all of them: dstack stop -a", code="usage"
        )
    from dstack_cli.stopping import Wanted, stop_runs

    at_once = abort or (everything and run is not None)
    return stop_runs(home, Wanted(run, workflow, at_once), as_json)
