"""The command tree: lazy, grouped by purpose, with suggestions for what was mistyped."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from dstack_cli.verbs import GROUPS, VERBS, find, spellings
from dstack_mesh.home import Home

EXAMPLES = (
    ("dstack run train --gpu 1", "run the workflow `train` where a GPU is free"),
    ("dstack logs -f @", "follow the last run"),
)


class VerbGroup(click.Group):
    """The root command. Knows every verb by the table and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = find(cmd_name)
        if verb is None:
            return None
        command = getattr(import_module(f"dstack_cli.commands.{verb.module}"), verb.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if find(name) is None and not name.startswith("-"):
            from dstack_cli.replaced import find_replaced  # only old scripts need it

            old = find_replaced(name)
            if old is not None:
                raise old
            raise click.exceptions.NoSuchCommand(name, possibilities=spellings(), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(full_help())


def print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Prints the version and ends."""
    if value and not ctx.resilient_parsing:
        from dstack_mesh.version import installed_version

        click.echo(f"dstack {installed_version()}")
        ctx.exit()


def invoke(args: list[str]) -> int:
    """Runs a command line; returns its exit code."""
    try:
        with root.make_context("dstack", args) as ctx:
            code: object = root.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0


def full_help() -> str:
    """What `dstack --help` prints."""
    lines = ["Usage: dstack [--home DIR] VERB ...", ""]
    width = max(len(example) for example, _ in EXAMPLES)
    lines += [f"  {example:<{width}}  # {why}" for example, why in EXAMPLES]
    for group in GROUPS:
        lines += ["", f"{group}:"]
        lines += [f"  {verb.name:<11} {verb.help}" for verb in VERBS if verb.group == group]
    lines += [
        "",
        "Options:",
        "  --home DIR  Keep everything below DIR (also DSTACK_HOME)",
        "  --version   Print the version (also -v)",
        "  --help      Print this (also -h); `dstack VERB --help` tells about a verb",
        "",
        "Names: any unique prefix of a run or an agent; @ is the last run, @2 the one before.",
        "",
    ]
    return "\n".join(lines)


def short_help(folder: Path) -> str:
    """What a bare `dstack` prints: where you are, and the next steps."""
    has_workflows = (folder / ".dstack").is_dir()
    first = (
        ("dstack run", "what can be run here")
        if has_workflows
        else ("dstack init", "write a first workflow in this folder")
    )
    steps = (
        first,
        ("dstack run hello", "run a workflow; `dstack run bash -c 'date'` needs no file"),
        ("dstack ps", "what runs now"),
        ("dstack agents", "which machines are there"),
        ("dstack --help", "every verb"),
    )
    lines = ["dstack runs workflows on the machines you have.", ""]
    lines += [f"  {command:<16}  {why}" for command, why in steps]
    return "\n".join([*lines, ""])


def keep_home(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Remembers the home that a flag named; the innermost flag wins."""
    if value is not None or ctx.obj is None:
        ctx.obj = Home.of_environment(value)


F = TypeVar("F", bound=Callable[..., Any])


def home_option(function: F) -> F:
    """Adds `--home DIR` to a verb."""
    return click.option(
        "--home",
        metavar="DIR",
        expose_value=False,
        is_eager=True,
        callback=keep_home,
        help="Keep everything below DIR (also DSTACK_HOME).",
    )(function)


@click.group(
    cls=VerbGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@home_option
@click.option(
    "-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version
)
@click.pass_context
def root(ctx: click.Context) -> None:
    """Workflows on the machines you have."""
    if ctx.invoked_subcommand is None:
        click.echo(short_help(Path.cwd()), nl=False)
