"""`dstack tag`, `dstack untag`, `dstack tags`: names for runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from dstack_cli.misused import Misused
from dstack_cli.names import misread, said_twice
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run")
@click.argument("name", required=False, metavar="[TAG]")
@click.option("-n", "--name", "flag", metavar="TAG", help="The name, as an option.")
@click.pass_obj
def tag(home: Home, run: str, name: str | None, flag: str | None) -> None:
    """Name a RUN. Either order will do; without TAG the run's own name becomes the tag."""
    if name and flag and name != flag:
        raise said_twice("tag", name, flag)
    from dstack_cli.tagging import give

    give(home, run, name or flag)


@click.command()
@home_option
@click.argument("name", metavar="(TAG | RUN)")
@click.option("-f", "--force", is_flag=True, hidden=True, expose_value=False)
@click.pass_obj
def untag(home: Home, name: str) -> None:
    """Take a TAG back, or all tags of a RUN."""
    from dstack_cli.tagging import take_back

    take_back(home, name)


@click.command()
@home_option
@click.argument("words", nargs=-1, metavar="[list | add TAG [RUN | DIR] | delete TAG]")
@click.option("-r", "--run", "of_run", metavar="RUN", help="The run, as an option of `create`.")
@click.option(
    *("-a", "--artifact", "--local-dir", "folders"),
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Upload a folder and tag it; repeatable.",
)
@click.option("-y", "--yes", is_flag=True, help="Nothing is asked.", expose_value=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def tags(
    home: Home,
    words: tuple[str, ...],
    of_run: str | None,
    folders: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """List the names of runs; `add` and `delete` do what `tag` and `untag` do."""
    from dstack_cli import tagging
    from dstack_cli.output.forms import chosen

    adding = words[:1] in (("add",), ("create",))
    if of_run and adding and (folders or len(words) > 2):
        raise said_twice("run", " ".join((*words[2:], *map(str, folders))), of_run)
    if (of_run or folders) and not adding:
        what = "-r and -a say what gets a tag."
        raise Misused(what, "Nothing is named here.", "dstack tags add TAG", code="usage")
    match words:
        case () | ("list",):
            tagging.show(home, chosen(as_json, quiet))
        case ("add" | "create", name, *more) if folders:
            _upload(home, name, [*map(Path, more), *folders], as_json, quiet)
        case ("add" | "create", name, folder) if tagging.is_folder(folder):
            _upload(home, name, [Path(folder)], as_json, quiet)
        case ("add" | "create", name):
            tagging.give(home, of_run or "@", name)
        case ("add" | "create", name, run):
            tagging.give(home, run, name)
        case ("delete", name):
            tagging.take_back(home, name)
        case _:
            raise misread(words[0], ("list", "add", "create", "delete"), "dstack tags --help")


def _upload(home: Home, name: str, folders: Sequence[Path], as_json: bool, quiet: bool) -> None:
    from dstack_cli.uploading import upload

    sys.exit(upload(home, name, folders, as_json, quiet))
