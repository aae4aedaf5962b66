"""Trouble at the end of a command: told to a person or a script, and turned into an exit code."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field

import click

from dstack_cli import exit_codes
from dstack_cli.misused import Misused
from dstack_cli.output import problems
from dstack_cli.output.escapes import plain
from dstack_cli.output.port import Json
from dstack_cli.verbs import find
from dstack_mesh.faults import EXIT_CODES, Fault, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.trouble import innermost, of_the_machine, render
from dstack_scheduler.workflow.problem import WorkflowProblems


@frozen
class Told:
    """Trouble in the shape that both a person and a script get."""

    code: str
    message: str
    hint: str
    text: str
    exit_code: int
    more: Mapping[str, Json] = field(default_factory=dict[str, Json])


def report(error: Exception, args: Sequence[str]) -> int:
    """Tells about the trouble of a command line; returns the exit code."""
    if os.environ.get("DSTACK_DEBUG") == "1":
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    told = _told(innermost(error), _follows(args))
    if "--json" in args:
        shape = {"code": told.code, "message": told.message, "hint": told.hint, **told.more}
        click.echo(json.dumps({"error": shape}))
    else:
        click.echo(plain(told.text), err=True)
    return told.exit_code


def _follows(args: Sequence[str]) -> bool:
    """Whether the verb's exit code is otherwise a job's."""
    verbs = (find(word) for word in args)
    first = next((verb for verb in verbs if verb is not None), None)
    return first is not None and first.follows


def _told(error: BaseException, follows: bool) -> Told:
    match error:
        case Misused():
            return Told(error.code, str(error), error.hint, render(error), exit_codes.USAGE)
        case WorkflowProblems():
            return _written_wrongly(error)
        case MeshError():
            code = exit_codes.of_error(error, follows)
            return Told(error.code, str(error), error.hint, render(error), code)
        case click.UsageError():
            return _usage(error)
        case click.ClickException():
            message = error.format_message()
            return Told("usage", message, "", message, exit_codes.USAGE)
        case _:
            trouble = of_the_machine(error)
            return _told(trouble, follows) if trouble is not None else _bug(error, follows)


def _written_wrongly(error: WorkflowProblems) -> Told:
    text = f"{problems.told(error.problems)}\nNothing was sent. Check again: dstack validate"
    more = {"problems": [problems.shape(problem) for problem in error.problems]}
    return Told(error.code, error.what, error.hint, text, exit_codes.USAGE, more)


def _usage(error: click.UsageError) -> Told:
    message = error.format_message()
    path = error.ctx.command_path if error.ctx is not None else "dstack"
    hint = f"{path} --help"
    return Told("usage", message, hint, f"{message}\n  fix: {hint}", exit_codes.USAGE)


def _bug(error: BaseException, follows: bool) -> Told:
    what = f"dstack has a bug: {type(error).__name__}: {error}".rstrip(": ")
    hint = "run it again with DSTACK_DEBUG=1 and report what it prints"
    code = exit_codes.OURS if follows else EXIT_CODES[Fault.BROKEN]
    return Told(Fault.BROKEN.value, what, hint, f"{what}\n  fix: {hint}", code)
