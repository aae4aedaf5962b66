"""`dstack wait`."""

import sys

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command()
@home_option
@click.argument("run", default="@")
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
@click.option("--timeout", type=click.FloatRange(0), help="Give up after so many seconds (124).")
@click.pass_obj
def wait(home: Home, run: str, as_json: bool, timeout: float | None) -> int:
    """Wait for a RUN (default: the last one) to end; exits with its exit code."""
    import asyncio

    from dstack_cli import exit_codes
    from dstack_cli.ending import end_document, unended_document
    from dstack_cli.following import RunFollower
    from dstack_cli.output.forms import chosen
    from dstack_cli.reach import Private, carry_out, chosen_run, reaching
    from dstack_scheduler.progress import Progress

    class Nobody:
        async def saw(self, event: Progress) -> None:
            pass

    async def look() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            picture = chosen_run(run, await reach.runs())
            name, status = picture.record.run_name, picture.status
            if not status.ended and not as_json and sys.stderr.isatty():
                chosen().talk(f"{name} is {status.value}; Ctrl-C leaves it alone.")
            try:
                async with asyncio.timeout(timeout):
                    end = await RunFollower(reach, picture, Nobody()).run()
            except TimeoutError:
                chosen(as_json).document(unended_document(name, picture.status.value))
                return exit_codes.TIME_LIMIT
            chosen(as_json).document(end_document(name, end))
            return exit_codes.of_end(end)

    return carry_out(look())
