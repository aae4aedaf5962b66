"""`dstack ps` and `dstack status`: runs, whoever has them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Listing, Output
from dstack_cli.tree import home_option
from dstack_mesh.home import Home

if TYPE_CHECKING:
    from dstack_cli.picture import RunPicture

WATCH_SECONDS = 1.0

Draw = Callable[[Sequence["RunPicture"], datetime], Listing]


@click.command()
@home_option
@click.argument("run", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Finished runs too.")
@click.option("-n", "--last", type=click.IntRange(1), help="The last N runs.")
@click.option("-w", "--watch", is_flag=True, help="Show again as things change.")
@click.option("-v", "--verbose", is_flag=True, help="Say copies, what went wrong, and ids.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def ps(
    home: Home,
    run: str | None,
    everything: bool,
    last: int | None,
    watch: bool,
    verbose: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """List runs: those that go on, or the last one that ended."""
    from dstack_cli.output.runs import ps_listing

    draw = partial(ps_listing, verbose=verbose)
    _list(home, _Choice(run, everything, last), draw, chosen(as_json, quiet), watch)


@click.command()
@home_option
@click.argument("run", required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Finished runs too.")
@click.option("-n", "--last", type=click.IntRange(1), help="The last N runs.")
@click.option("-w", "--watch", is_flag=True, help="Show again as things change.")
@click.option("--no-jobs", is_flag=True, help="One line for each run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print names alone.")
@click.pass_obj
def status(
    home: Home,
    run: str | None,
    everything: bool,
    last: int | None,
    watch: bool,
    no_jobs: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """List runs and below each its jobs: RUN TAG JOB WORKFLOW VARIABLES SUBMITTED RUNNER STATUS."""
    from dstack_cli.output.runs import status_listing

    draw = partial(status_listing, with_jobs=not no_jobs)
    _list(home, _Choice(run, everything, last), draw, chosen(as_json, quiet), watch)


class _Choice:
    """Which of all runs to show."""

    def __init__(self, run: str | None, everything: bool, last: int | None) -> None:
        self._run = run
        self._everything = everything
        self._last = last

    def of(self, pictures: Sequence["RunPicture"]) -> Sequence["RunPicture"]:
        """The runs that were asked for."""
        if self._run is not None:
            from dstack_cli.reach import chosen_run

            return [chosen_run(self._run, pictures)]
        if self._last is not None:
            return pictures[: self._last]
        if self._everything:
            return pictures
        return [one for one in pictures if one.heard and not one.status.ended] or pictures[:1]


def _list(home: Home, choice: _Choice, draw: Draw, output: Output, watch: bool) -> None:
    from dstack_cli.reach import Private, carry_out, reaching

    async def look() -> None:
        import asyncio
        from datetime import UTC

        async with reaching(home, Private.IF_HISTORY) as reach:
            before: list[object] = []
            while True:
                listing = draw(choice.of(await reach.runs()), datetime.now(UTC))
                if not watch or before != [listing.items]:
                    output.listing(listing)
                    before = [listing.items]
                if not watch:
                    return
                await asyncio.sleep(WATCH_SECONDS)

    carry_out(look())
