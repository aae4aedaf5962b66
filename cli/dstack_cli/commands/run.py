"""`dstack run`."""

from pathlib import Path

import click

from dstack_cli.run_words import RUN, Asked
from dstack_cli.words_command import WordsCommand, options_of
from dstack_mesh.home import Home


@click.command(
    cls=WordsCommand,
    grammar=RUN,
    options_metavar="[FLAGS]",
    params=[
        *options_of(RUN),
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
