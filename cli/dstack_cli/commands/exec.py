"""`dstack exec`."""

import click

from dstack_cli.tree import home_option
from dstack_mesh.home import Home


class Beside(click.Command):
    """Takes what follows the run's name as it is, from the first word that is no flag of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._apart(args))

    def _apart(self, args: list[str]) -> list[str]:
        """The words with a -- before the command, if there is none."""
        options = [one for one in self.params if isinstance(one, click.Option)]
        valued = {name for one in options if not one.is_flag for name in one.opts}
        named, value = False, False
        for index, word in enumerate(args):
            if word == "--":
                break
            if value or (word.startswith("-") and word != "-"):
                value = not value and word in valued
            elif named:
                return [*args[:index], "--", *args[index:]]
            else:
                named = True
        return args


@click.command("exec", cls=Beside)
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
    """Run a COMMAND beside a job of a RUN (default: the last one), or a shell: dstack exec @ ls -l.

    It has the job's environment, folder, user and cards, and ends with it. Exits with its exit
    code.
    """
    from dstack_cli.beside import Wanted, carry_out_beside

    return carry_out_beside(home, Wanted(run, job, command, tty, interactive))
