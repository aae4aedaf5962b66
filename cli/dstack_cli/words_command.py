"""Verbs that take their words as they are: what is not theirs belongs to the workflow."""

from typing import Any

import click

from dstack_cli.run_words import Grammar, read
from dstack_cli.tree import keep_home


class WordsCommand(click.Command):
    """Calls its function with what the words ask for."""

    def __init__(self, *args: Any, grammar: Grammar, **options: Any) -> None:
        super().__init__(*args, **options)
        self._grammar = grammar

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asked = read(args, self._grammar)
        if asked.home is not None:
            keep_home(ctx, self.params[0], asked.home)
        if asked.help and not asked.target:
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params = {"asked": asked}
        return []


def options_of(grammar: Grammar) -> list[click.Option]:
    """The flags as click shows them."""
    return [
        click.Option(
            flag.spellings, help=flag.help, metavar=flag.value or None, is_flag=not flag.value
        )
        for flag in (*grammar.early, *grammar.flags)
        if "--help" not in flag.spellings
    ]
