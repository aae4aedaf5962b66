"""`dstack logs`: the log of a run, each stream to its own."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.argument("workflow", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends; exits with its exit code.")
@click.option("-n", "--last", type=click.IntRange(0), help="The last N lines of each stream.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("-s", "--since", help="Only what is newer: 10m, 2h, 1d, or 2026-11-20T14:00.")
@click.option("--until", help="Only what is older.")
@click.option("--job", type=click.IntRange(0), help="Only this job of the run, counted from 0.")
@click.option("--stdout", "streams", flag_value="stdout", help="Only standard output.")
@click.option("--stderr", "streams", flag_value="stderr", help="Only standard error.")
@click.option("-a", "--attach", "follow_too", is_flag=True, help="The same as --follow.")
@click.option("-d", "--diagnose", is_flag=True, help="What its agents noted of it, instead.")
@click.pass_obj
def logs(
    home: Home,
    run: str,
    workflow: str,
    follow: bool,
    last: int | None,
    timestamps: bool,
    since: str | None,
    until: str | None,
    job: int | None,
    streams: str | None,
    follow_too: bool,
    diagnose: bool,
) -> int:
    """Show the log of a RUN or a JOB (default: the last run). Output stays on its stream."""
    from datetime import UTC, datetime

    from dstack_cli.logbook import Selection, moment, show

    if diagnose:
        from dstack_cli.diagnosing import diagnose as tell

        return tell(home, run)
    now = datetime.now(UTC)
    selection = Selection(
        job=job,
        workflow=workflow,
        stream=streams or "",
        since=moment(since, now) if since else None,
        until=moment(until, now) if until else None,
        last=last,
        timestamps=timestamps,
    )
    return show(home, run, selection, follow or follow_too)
