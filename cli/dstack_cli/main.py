"""`dstack`: from the command line to an exit code, trouble included."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from dstack_cli.tree import VerbGroup, home_option, short_help
from dstack_cli.verbs import find


def print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Prints the version and ends."""
    if value and not ctx.resilient_parsing:
        from dstack_cli.commands.version import installed_version

        click.echo(f"dstack {installed_version()}")
        ctx.exit()


@click.group(cls=VerbGroup, invoke_without_command=True)
@home_option
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version)
@click.pass_context
def root(ctx: click.Context) -> None:
    """Workflows on the machines you have."""
    if ctx.invoked_subcommand is None:
        click.echo(short_help(Path.cwd()), nl=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code.

    The one place where trouble becomes words: what a person can understand is told as it is,
    anything else is a bug of ours and says so; a traceback is printed only with DSTACK_DEBUG=1.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _invoke(args)
    except BrokenPipeError:
        return _reader_left()
    except (KeyboardInterrupt, click.Abort):
        from dstack_cli.exit_codes import INTERRUPTED

        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except Exception as error:
        from dstack_cli.trouble import report

        return report(error, as_json="--json" in args, follows=_follows(args))


def _invoke(args: list[str]) -> int:
    try:
        with root.make_context("dstack", args) as ctx:
            code: object = root.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _follows(args: Sequence[str]) -> bool:
    verbs = (find(word) for word in args)
    first = next((verb for verb in verbs if verb is not None), None)
    return first is not None and first.follows


def _reader_left() -> int:
    """Ends quietly when whoever read our output has gone (`dstack logs @ | head`)."""
    from dstack_cli.exit_codes import PIPE_CLOSED

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
