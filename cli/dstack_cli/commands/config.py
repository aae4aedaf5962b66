"""`dstack config`: remotes, where runs are kept for everybody."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home

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
    match words:
        case ("list",):
            configuring.show(home, chosen(as_json, quiet))
        case ("delete", name):
            configuring.delete(home, name)
        case ():
            configuring.configure(home, place)
        case (url,) if "://" in url:
            configuring.configure(home, configuring.named(place, "", url))
        case (name, url):
            configuring.configure(home, configuring.named(place, name, url))
        case _:
            raise Misused("Which place is it?", "", "dstack config s3://BUCKET", code="usage")
