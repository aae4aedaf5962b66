"""`dstack offers`: who could take a job right now."""

from pathlib import Path

import click

from dstack_cli.offer_words import OFFERS
from dstack_cli.run_words import Asked
from dstack_cli.words_command import WordsCommand, options_of
from dstack_mesh.home import Home


@click.command(
    cls=WordsCommand,
    grammar=OFFERS,
    options_metavar="[FLAGS]",
    params=[
        *options_of(OFFERS),
        click.Argument(("target",), metavar="[WORKFLOW | PROVIDER]", required=False),
        click.Argument(("words",), metavar="[VARIABLES, FLAGS AND ARGUMENTS OF IT]...", nargs=-1),
    ],
)
@click.pass_context
def offers(ctx: click.Context, asked: Asked) -> None:
    """List who could take a job right now, the best first; nothing is started or held.

    \b
    dstack offers --gpu V100:16GB      who has such a card free
    dstack offers train --lr 0.1       who could run the workflow `train`

    Every agent is asked what `dstack run` would ask it.
    """
    if asked.help:
        click.echo(ctx.get_help())
        return
    from dstack_cli.offering import show_offers

    home: Home = ctx.obj
    show_offers(home, Path.cwd(), asked)
