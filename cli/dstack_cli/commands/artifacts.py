"""`dstack artifacts`: the old spellings of `ls` and `cp`."""

from pathlib import Path

import click

from dstack_cli.misused import Misused
from dstack_cli.names import misread
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("words", nargs=-1, metavar="[list|download] (RUN [WORKFLOW] | JOB | :TAG)")
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Download to DIR.")
@click.option("-t", "--total", is_flag=True, help="One line for each artifact.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def artifacts(
    home: Home, words: tuple[str, ...], folder: Path | None, total: bool, as_json: bool
) -> None:
    """List or download what a RUN, a JOB or a :TAG kept, as `dstack ls` and `dstack cp` do."""
    from dstack_cli.output.forms import chosen
    from dstack_cli.shelves import Looking, fetch, list_kept

    action, names = (words[0], words[1:]) if words[:1] in _ACTIONS else ("", words)
    if not action and len(names) > 1:
        raise misread(names[0], ("list", "download"), "dstack artifacts --help")
    match names:
        case (run, *rest) if len(rest) < 2:
            workflow = rest[0] if rest else ""
        case _:
            raise Misused("Which run?", "", "dstack artifacts list RUN", code="usage")
    if action == "download" or folder is not None:
        fetch(home, run, "", folder or Path.cwd(), workflow)
    else:
        list_kept(home, run, Looking("", True, total, workflow), chosen(as_json))


_ACTIONS = (("list",), ("download",))
