"""`dstack export`: what a run kept, as plain files for other tools."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run")
@click.argument("target", metavar="(DIR | s3://BUCKET/FOLDER)")
@click.option("--endpoint", default="", metavar="URL", help="Of a service other than AWS.")
@click.option("--region", default="", help="Of the bucket; else as AWS_REGION or the profile says.")
@click.option("--profile", default="", help="Whose credentials; else as AWS_PROFILE says.")
@click.pass_obj
def export(home: Home, run: str, target: str, endpoint: str, region: str, profile: str) -> None:
    """Write the artifacts and logs of a RUN or a :TAG as plain files.

    A bucket of a configured remote is reached as that remote is.
    """
    from pathlib import Path

    from dstack_cli.misused import Misused
    from dstack_cli.remotes import configuring
    from dstack_cli.remotes.exporting import export as write

    given = configuring.Given("", target, endpoint, region, profile)
    if "://" in target:
        write(home, run, configuring.bucket_for_export(home, given))
        return
    if target.startswith("s3:") or given != configuring.Given("", target):
        what = f"{target} is a folder, and not a bucket."
        hint = f"dstack export {run} s3://BUCKET/FOLDER"
        raise Misused(what, "Nothing was written.", hint, code="usage")
    write(home, run, Path(target))
