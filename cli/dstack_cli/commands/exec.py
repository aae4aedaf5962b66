"""`dstack exec`."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


@click.command("exec")
@home_option
@click.argument("run", default="@")
@click.argument("command", nargs=-1)
@click.option("--job", type=click.IntRange(0), help="This job of the run, counted from 0.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-i", "--interactive", is_flag=True, help="What is typed goes to the command.")
@click.pass_obj
def run_beside(
    home: Home, run: str, command: tuple[str, ...], job: int | None, tty: bool, interactive: bool
) -> int:
    """Run a COMMAND beside a job of a RUN (default: the last one), or a shell: dstack exec @ -- ls.

    It has the job's environment, folder, user and cards, and ends with it. Exits with its exit
    code. Write -- before a command that has flags.
    """
    from dstack_cli.beside import Wanted, carry_out_beside

    return carry_out_beside(home, Wanted(run, job, command, tty, interactive))
