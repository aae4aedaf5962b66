"""`dstack run`."""

from pathlib import Path

import click

from dstack_cli.run_words import FLAGS, Asked, read
from dstack_cli.tree import keep_home
from dstack_mesh.home import Home


class RunCommand(click.Command):
    """Takes its words as they are: what is not ours belongs to the workflow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asked = read(args)
        if asked.home is not None:
            keep_home(ctx, self.params[0], asked.home)
        if asked.help and not asked.target:
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params = {"asked": asked}
        return []


@click.command(
    cls=RunCommand,
    options_metavar="[FLAGS]",
    params=[
        *(
            click.Option(
                flag.spellings,
                help=flag.help,
                metavar=flag.value or None,
                is_flag=not flag.value,
            )
            for flag in FLAGS
            if "--help" not in flag.spellings
        ),
        click.Argument(("target",), metavar="(WORKFLOW | PROVIDER)", required=False),
        click.Argument(("words",), metavar="[VARIABLES, FLAGS AND ARGUMENTS OF IT]...", nargs=-1),
    ],
)
@click.pass_obj
def run(home: Home, asked: Asked) -> int:
    """Run a workflow of .dstack/workflows.yaml, or a provider directly.

    \b
    dstack run train --gpu 1 --lr 0.1       variables and flags come after the name
    dstack run python fit.py --epochs 3     a provider needs no file
    dstack run train -- -d                  after -- everything is the script's

    Without a name it lists what can be run here. Ctrl-C detaches; the exit code is the job's.
    """
    from dstack_cli import running

    if not asked.target:
        return running.list_targets(Path.cwd(), asked.as_json)
    if asked.help:
        return running.tell_about(Path.cwd(), asked.target)
    return running.run(home, Path.cwd(), asked)
