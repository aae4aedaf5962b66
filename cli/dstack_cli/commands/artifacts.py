"""`dstack artifacts`: the old spellings of `ls`, `cp` and `tags add TAG DIR`."""

from collections.abc import Sequence
from pathlib import Path

import click

from dstack_cli.misused import Misused
from dstack_cli.names import misread, said_twice
from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument(
    "words",
    nargs=-1,
    metavar="([list|download] (RUN [WORKFLOW] | JOB | :TAG)) | (upload DIR... [-t TAG])",
)
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Download to DIR.")
@click.option("-t", "--total", is_flag=True, help="One line each; of `upload`: TAG follows.")
@click.option("-w", "--workflow", "only", default="", metavar="WORKFLOW", help="As a word of RUN.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def artifacts(
    home: Home,
    words: tuple[str, ...],
    folder: Path | None,
    total: bool,
    only: str,
    as_json: bool,
) -> int:
    """List, download or upload what a RUN, a JOB or a :TAG keeps, as `ls`, `cp` and `tags` do."""
    from dstack_cli.output.forms import chosen
    from dstack_cli.shelves import Looking, fetch, list_kept

    action, names = (words[0], words[1:]) if words[:1] in _ACTIONS else ("", words)
    if action == "upload":
        if folder is not None:
            what = "-o says where a download goes."
            raise Misused(what, "Nothing is downloaded here.", "dstack artifacts -h", code="usage")
        return _upload(home, names, total, only, as_json)
    if not action and len(names) > 1:
        raise misread(names[0], ("list", "download", "upload"), "dstack artifacts --help")
    match names:
        case (run, *rest) if len(rest) < 2:
            workflow = rest[0] if rest else only
            if only and only != workflow:
                raise said_twice("workflow", workflow, only)
        case _:
            raise Misused("Which run?", "", "dstack artifacts list RUN", code="usage")
    if action == "download" or folder is not None:
        fetch(home, run, "", folder or Path.cwd(), workflow)
    else:
        list_kept(home, run, Looking("", True, total, workflow), chosen(as_json))
    return 0


_ACTIONS = (("list",), ("download",), ("upload",))


def _upload(home: Home, words: Sequence[str], tagged: bool, workflow: str, as_json: bool) -> int:
    """Uploads folders under a tag: what was given with -t, else the workflow's or folder's name."""
    from dstack_cli.uploading import upload

    folders = [Path(word) for word in words if not tagged or Path(word).is_dir()]
    names = [word for word in words if tagged and not Path(word).is_dir()]
    if not folders or len(names) > 1 or (tagged and not names):
        hint = "dstack artifacts upload DIR -t TAG"
        raise Misused("Which folder, and which tag?", "", hint, code="usage")
    if names and workflow and workflow != names[0]:
        raise said_twice("tag", names[0], workflow)
    tag = names[0] if names else workflow or folders[0].absolute().name
    return upload(home, tag, folders, as_json)
