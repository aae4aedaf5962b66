"""`dstack config`: remotes, where runs are kept for everybody."""

from typing import TYPE_CHECKING

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home

if TYPE_CHECKING:
    from dstack_cli.output.port import Output
    from dstack_cli.remotes.configuring import Given

_OLD = ("--token", "--url", "--server", "--project", "--file")
"""Flags of versions that had a server."""


@click.command()
@home_option
@click.argument("words", nargs=-1, metavar="[NAME] s3://BUCKET[/FOLDER] | list | delete NAME")
@click.option("--endpoint", default="", metavar="URL", help="Of a service other than AWS.")
@click.option("--region", default="", help="Of the bucket; else as AWS_REGION or the profile says.")
@click.option("--profile", default="", help="Whose credentials; else as AWS_PROFILE says.")
@click.option("--default", is_flag=True, help="Commands that name no remote mean this one.")
@click.option("--create", is_flag=True, help="Make the bucket if it does not exist.")
@click.option("--no-check", is_flag=True, help="Write it down without asking the place.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.option(*_OLD, "old", hidden=True)
@click.option("--no-verify", "--force", is_flag=True, hidden=True, expose_value=False)
@click.pass_obj
def config(
    home: Home,
    words: tuple[str, ...],
    endpoint: str,
    region: str,
    profile: str,
    default: bool,
    create: bool,
    no_check: bool,
    as_json: bool,
    quiet: bool,
    old: str | None,
) -> None:
    """Name a remote: a bucket where runs, tags and artifacts are kept for everybody who has it.

    \b
    dstack config s3://lab-runs/team
    dstack config lab s3://runs --endpoint https://s3.lab.example --profile lab

    Nothing secret is written down: credentials are found as AWS's own tools find them.
    """
    from dstack_cli.misused import Misused
    from dstack_cli.output.forms import chosen
    from dstack_cli.remotes import configuring

    if old is not None:
        raise Misused(
            "There is no server to log in to.",
            "Machines join a mesh; runs are shared by a bucket.",
            "dstack mesh join CODE\ndstack config s3://BUCKET",
            code="usage",
        )
    place = configuring.Given("", "", endpoint, region, profile, default, create, not no_check)
    output = chosen(as_json, quiet)
    if not words:
        configuring.configure(home, place, output)
    else:
        _do(home, words, place, output)


def _do(home: Home, words: tuple[str, ...], place: "Given", output: "Output") -> None:
    from dstack_cli.misused import Misused
    from dstack_cli.names import misread
    from dstack_cli.remotes import configuring

    match words:
        case ("list",) | ("delete", _) if place != configuring.Given():
            what = f"Flags of a place do not go with {words[0]}."
            raise Misused(what, "Nothing was done.", "dstack config --help", code="usage")
        case ("list",):
            configuring.show(home, output)
        case ("delete", name):
            configuring.delete(home, name, output)
        case (name,) if place == configuring.Given(default=True) and "://" not in name:
            configuring.make_default(home, name, output)
        case (url,) if "://" in url:
            configuring.configure(home, configuring.named(place, "", url), output)
        case (url, name) if "://" in url and "://" not in name:
            configuring.configure(home, configuring.named(place, name, url), output)
        case (name, url) if name not in ("list", "delete"):
            configuring.configure(home, configuring.named(place, name, url), output)
        case _:
            hint = "dstack config [NAME] s3://BUCKET[/FOLDER]"
            raise misread(words[0], ("list", "delete NAME", "s3://BUCKET"), hint)
