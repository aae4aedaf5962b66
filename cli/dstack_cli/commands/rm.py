"""`dstack rm` and `dstack prune`: runs that ended leave all lists."""

import click

from dstack_cli.misused import Misused
from dstack_cli.names import misread
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="All that ended, of this folder.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def rm(home: Home, run: str | None, everything: bool, yes: bool, as_json: bool, quiet: bool) -> int:
    """Remove a RUN that ended, for everybody. What a tag names is kept."""
    from dstack_cli import removing

    if (run is None) is not everything:
        raise Misused("Which run?", "", "dstack rm RUN   or all: dstack rm -a", code="usage")
    if run is None:
        ended = removing.all_ended(True)
        return removing.remove(home, ended, yes, "dstack rm -a -y", as_json, quiet)
    return removing.remove(home, removing.one(run), yes, f"dstack rm {run} -y", as_json, quiet)


@click.command()
@home_option
@click.argument("words", nargs=-1, metavar="[cache WORKFLOW]")
@click.option("-f", "--force", "-y", "--yes", "yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def prune(home: Home, words: tuple[str, ...], yes: bool, as_json: bool, quiet: bool) -> int:
    """Remove all runs of this folder that ended and have no tag."""
    from dstack_cli import removing

    match words:
        case ():
            pass
        case ("cache", workflow):
            from dstack_cli.forgetting import forget_caches

            forget_caches(home, workflow, as_json, quiet)
            return 0
        case ("cache", *_):
            what, hint = "Which workflow's caches?", "dstack prune cache WORKFLOW"
            raise Misused(what, "One is named.", hint, code="usage")
        case _:
            raise misread(words[0], ("cache",), "dstack prune --help")
    return removing.remove(home, removing.all_ended(False), yes, "dstack prune -f", as_json, quiet)
