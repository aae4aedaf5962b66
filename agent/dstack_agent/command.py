"""`dstack-runner`: the daemon of a workstation, from the command line to an exit code.

Loads only click and what the chosen verb needs: `--help` is instant.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dstack_agent.settings import TABLE, Setting

if TYPE_CHECKING:
    from dstack_agent.owner.desk import Holding
    from dstack_agent.settings import Settings
    from dstack_agent.wire.owner import OwnerClient
    from dstack_mesh.faults import MeshError

Command = TypeVar("Command", bound=Callable[..., Any])
Answer = TypeVar("Answer")

INTERRUPTED = 130
USAGE = 2
BUG = 70


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from dstack_mesh.version import installed_version

        click.echo(f"dstack-runner {installed_version()}")
        ctx.exit()


class _Root(click.Group):
    """The verbs, and what became of an old one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "config":
            raise click.UsageError(
                "There is no server and no token: a machine joins a mesh, and its settings are"
                " flags of start.\n  fix: dstack-runner join CODE\n"
                "  fix: dstack-runner start --help",
                ctx,
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
def root() -> None:
    """Runs jobs on this machine for the members of its mesh."""


def _flag(setting: Setting) -> Callable[[Command], Command]:
    """The command-line option of a setting. Twins in the environment are read with the others."""
    if setting.switch:
        off = "" if setting.default == "off" else f"/--no-{setting.flag.removeprefix('--')}"
        return click.option(
            setting.flag + off, setting.name, is_flag=True, default=None, help=setting.effect
        )
    return click.option(
        setting.flag,
        setting.name,
        multiple=setting.repeated,
        metavar=setting.unit.upper() or "TEXT",
        help=f"{setting.effect} Default: {setting.default}.",
    )


def _settings(command: Command) -> Command:
    for setting in reversed(TABLE):
        command = _flag(setting)(command)
    return command


_home = click.option("--home", metavar="DIR", help="Where everything of this peer is kept.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@root.command()
@_settings
@click.option(
    "--log-json",
    is_flag=True,
    envvar="DSTACK_LOG_JSON",
    help="Write the log as JSON, a line an event.",
)
def start(log_json: bool, **flags: object) -> None:
    """Serve until stopped. In a home that joined a mesh no option is needed."""
    settings = _settings_of(flags)
    # Both are read when grpc is loaded: jobs are started by fork and exec, which it need not know.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from dstack_agent.process import serve

    serve(settings, log_json)


@root.command()
@click.argument("code")
@click.argument("address", required=False, metavar="[HOST:PORT]")
@_home
@click.option("--yes", is_flag=True, help="Do not ask whether the four words are the same.")
def join(code: str, address: str | None, home: str | None, yes: bool) -> None:
    """Join the mesh that CODE invites to ("-" reads it from standard input)."""
    import asyncio

    from dstack_mesh.home import Home
    from dstack_mesh.trust.roster.picture import RUNNING
    from dstack_mesh.wire.newcomer import Words, join_mesh

    def confirm(words: Words) -> bool:
        click.echo(f"The other screen must show: {' '.join(words)}", err=True)
        return yes or click.confirm("Does it?", err=True)

    text = sys.stdin.readline().strip() if code == "-" else code
    where = Home.of_environment(home)
    membership = asyncio.run(join_mesh(where, text, address, confirm))
    click.echo(f"Joined the mesh {membership.mesh_name} as {membership.role.value}.")
    again = f" --home {where.root}" if home else ""
    if membership.role in RUNNING:
        click.echo(f"Start serving it with: dstack-runner start{again}", err=True)
    else:
        click.echo(
            f"As {membership.role.value} it gets no jobs of others. To take some, join again with a"
            " code of `dstack mesh invite` without --role.",
            err=True,
        )


@root.command()
@_home
@_json
def status(home: str | None, as_json: bool) -> None:
    """Show whether the agent of this home serves, and what it has and runs."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from dstack_agent.status import problems, read_status, shape, told
    from dstack_mesh.home import Home

    where = Home.of_environment(home)
    answer, troubles = read_status(where), problems(where)
    click.echo(json.dumps(shape(answer, troubles)) if as_json else told(answer, troubles))


@root.command()
@_home
@_json
@click.option("--until", metavar="TIME", help="When it ends by itself: 18:00, 30m, 2h.")
@click.option("--now", is_flag=True, help="Also ask jobs of others that run to save and go.")
def pause(home: str | None, as_json: bool, until: str | None, now: bool) -> None:
    """Take no new jobs, until a time or until you resume."""
    from datetime import UTC, datetime

    from dstack_agent.owner.spans import parse_until

    end = parse_until(until, datetime.now(UTC).astimezone()) if until else None
    holding, asked = _order(home, lambda owner: owner.pause(end, now))
    _tell_holding(holding, as_json, asked)


@root.command()
@_home
@_json
def resume(home: str | None, as_json: bool) -> None:
    """Take jobs again, after a pause or a drain."""
    _tell_holding(_order(home, lambda owner: owner.resume()), as_json)


@root.command()
@_home
@_json
def drain(home: str | None, as_json: bool) -> None:
    """Finish the jobs that run, and take no new ones until you resume."""
    _tell_holding(_order(home, lambda owner: owner.drain()), as_json)


@root.command()
@_home
@_json
@click.option("--check", "file", metavar="FILE", help="Check a file; asks no agent.")
def policy(home: str | None, as_json: bool, file: str | None) -> int:
    """Show what you allow on this machine, or check a file before it holds."""
    from dstack_agent.owner.showing import check_file, show_rules
    from dstack_mesh.home import Home

    where = Home.of_environment(home)
    text, code = check_file(file, as_json) if file else show_rules(where, as_json)
    click.echo(text)
    return code


@root.command()
@_home
@_json
@click.option("--since", metavar="TIME", help="Show from then on: 2h, 7d, 2026-11-25T18:00.")
def audit(home: str | None, as_json: bool, since: str | None) -> int:
    """Show who did what to this machine, and whether all of that log is there."""
    from dstack_agent.audit.showing import show_log
    from dstack_mesh.home import Home

    text, code = show_log(Home.of_environment(home), since, as_json)
    click.echo(text)
    return code


def _order(home: str | None, say: "Callable[[OwnerClient], Awaitable[Answer]]") -> "Answer":
    """Says something to the agent of this home as its owner."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from dstack_agent.status import order
    from dstack_mesh.home import Home

    return order(Home.of_environment(home), say)


def _tell_holding(holding: "Holding", as_json: bool, asked: int = 0) -> None:
    from datetime import UTC, datetime

    from dstack_agent.owner.words import holding_shape, holding_told

    if as_json:
        shape = {"schema": "dstack.lending/v1", **holding_shape(holding), "asked": asked}
        click.echo(json.dumps(shape))
        return
    click.echo(holding_told(holding, datetime.now(UTC)))
    if asked:
        jobs = "1 job was" if asked == 1 else f"{asked} jobs were"
        click.echo(f"{jobs} asked to save and go; see: dstack-runner status")


@root.command()
@_home
@_json
@click.option("--listen", metavar="HOST:PORT", help="Where the agent would listen.")
@click.option("--chunks", is_flag=True, help="Read and verify all chunks of this home instead.")
def check(home: str | None, as_json: bool, listen: str | None, chunks: bool) -> int:
    """Show what jobs would get on this machine, and what stands in the way."""
    if chunks:
        return _check_chunks(home, as_json)
    from dstack_agent.checkup import examine, shape, told

    found = examine(_settings_of({"home": home, "listen": listen}))
    click.echo(json.dumps(shape(found)) if as_json else told(found))
    return 1 if found.problems else 0


def _check_chunks(home: str | None, as_json: bool) -> int:
    from dstack_agent import upkeep
    from dstack_mesh.home import Home

    found = upkeep.check_chunks(Home.of_environment(home), upkeep.tell_on_terminal)
    shape, told = upkeep.checked_shape, upkeep.checked_told
    click.echo(json.dumps(shape(found)) if as_json else told(found))
    return 0 if upkeep.is_whole(found) else 1


@root.command()
@_home
@_json
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
def prune(home: str | None, as_json: bool, dry_run: bool) -> None:
    """Remove code, artifacts and environments that nobody needs from the disk of this home."""
    from dstack_agent import upkeep
    from dstack_mesh.home import Home

    where = Home.of_environment(home)
    found, installed = upkeep.prune(where, dry_run), upkeep.prune_environments(where, dry_run)
    shape, told = upkeep.pruned_shape, upkeep.pruned_told
    words = json.dumps(shape(found, installed, dry_run)) if as_json else ""
    click.echo(words or told(found, installed, dry_run))


def _settings_of(flags: Mapping[str, object]) -> "Settings":
    """The settings in effect. A wrong value is a mistake of usage, as a wrong flag is."""
    from dstack_agent.settings import read_settings
    from dstack_mesh.faults import Invalid
    from dstack_mesh.trouble import render

    try:
        return read_settings(flags)
    except Invalid as wrong:
        raise click.UsageError(render(wrong)) from wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code. Trouble is told in words, not as a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with root.make_context("dstack-runner", args) as ctx:
            code: object = root.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except Exception as error:  # the last place that can turn trouble into words
        return report(error, "--json" in args)
    return code if isinstance(code, int) else 0


def report(error: Exception, as_json: bool) -> int:
    """Tells about trouble, a bug by the error that a task group wrapped; returns the exit code."""
    from dstack_mesh.faults import EXIT_CODES
    from dstack_mesh.trouble import innermost, render

    if os.environ.get("DSTACK_DEBUG") == "1":
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    known = _mesh_error(error)
    if known is None:
        first = innermost(error)
        what = f"dstack-runner has a bug: {type(first).__name__}: {first}".rstrip(": ")
        click.echo(f"{what}\n  fix: run it again with DSTACK_DEBUG=1 and report it", err=True)
        return BUG
    if as_json:
        told = {"code": known.code, "message": str(known), "hint": known.hint}
        click.echo(json.dumps({"error": told}))
    else:
        click.echo(render(known), err=True)
    return EXIT_CODES[known.fault]


def _mesh_error(error: Exception) -> "MeshError | None":
    from dstack_mesh.faults import MeshError

    if isinstance(error, MeshError):
        return error
    from dstack_mesh.trouble import of_the_machine
    from dstack_mesh.wire.errors import mesh_error_in  # a task group wrapped it: grpc is loaded

    return of_the_machine(error) or mesh_error_in(error)


if __name__ == "__main__":
    sys.exit(main())
