"""`dstack artifacts`: the old spellings of `ls` and `cp`."""

from pathlib import Path

import click

from dstack_cli.misused import Misused
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("words", nargs=-1, metavar="[list|download] (RUN|:TAG)")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Download to DIR.")
@click.option("-t", "--total", is_flag=True, help="One line for each artifact.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def artifacts(
    home: Home, words: tuple[str, ...], folder: Path | None, total: bool, as_json: bool
) -> None:
    """List or download what a RUN or a :TAG kept; `dstack ls` and `dstack cp` do the same."""
    from dstack_cli.output.forms import chosen
    from dstack_cli.shelves import Looking, fetch, list_kept

    match words:
        case ("list", run) | (run,) if folder is None and words != ("download",):
            list_kept(home, run, Looking(recursive=True, total=total), chosen(as_json))
        case ("download", run) | ("list", run) | (run,):
            fetch(home, run, "", folder or Path.cwd())
        case _:
            raise Misused("Which run?", "", "dstack artifacts list RUN", code="usage")
