"""Spellings of earlier versions that mean nothing here: what took their place, as a table.

Spellings that still mean something are aliases in `verbs` and words of the verbs themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dstack_cli.misused import Misused
from dstack_mesh.frozen import frozen


@frozen
class Replaced:
    """An old verb, with its first words where they matter, and what to say instead."""

    spelling: str
    what: str
    why: str
    hint: str


_JOIN = "dstack mesh join CODE\ndstack mesh create NAME   (the first machine)"
_MACHINES = "dstack agents add USER@HOST   (a machine that your ssh reaches)\ndstack agents"
_LATER = "Machines of a cloud come in a later version; until then jobs run on machines you have."
_KEY = "A machine is a member of a mesh by its own key; nobody has an account."

REPLACED: tuple[Replaced, ...] = (
    Replaced("login", "There is no account to log in to.", _KEY, _JOIN),
    Replaced("logout", "There is no account to log out of.", _KEY, "dstack mesh leave"),
    Replaced("token", "There are no tokens.", _KEY, "dstack mesh invite --role submitter"),
    Replaced(
        "aws",
        "Nothing of AWS is configured here.",
        f"{_LATER} Credentials for a bucket are found as AWS's own tools find them.",
        "dstack config s3://BUCKET   (a bucket that keeps artifacts)",
    ),
    Replaced("on-demand", "There are no machines on demand.", _LATER, _MACHINES),
    Replaced("cloud", "There are no machines of a cloud yet.", _LATER, _MACHINES),
    Replaced(
        "dashboard",
        "There is no web page.",
        "What it showed is in the terminal, without a server.",
        "dstack ps -w\ndstack status -a",
    ),
    Replaced(
        "hub",
        "There is no server to start.",
        "Agents of a mesh talk to each other.",
        "dstack-runner start   (on a machine that takes jobs)\ndstack mesh create NAME",
    ),
    Replaced(
        "start",
        "There is no server to start.",
        "Agents of a mesh talk to each other.",
        "dstack-runner start   (on a machine that takes jobs)\ndstack run WORKFLOW",
    ),
)


def find_replaced(word: str) -> Misused | None:
    """What to say to an old verb; None if it is none."""
    for one in REPLACED:
        if one.spelling == word:
            return Misused(one.what, one.why, one.hint, code="replaced")
    return None


@frozen
class OldFlag:
    """A flag that no verb needs any more.

    Attributes:
        takes: Word for its value; "" for none.
        said: What is said of it; the verb goes on.
    """

    spellings: tuple[str, ...]
    said: str
    takes: str = ""


_NO_CREDENTIALS = "code travels from this folder; no credentials of git are kept"
_SSH = "machines reach each other by their own keys; no ssh key is kept"

INIT: tuple[OldFlag, ...] = (
    OldFlag(("-t", "--token", "--github-token"), _NO_CREDENTIALS, "TOKEN"),
    OldFlag(("-i", "--private-key", "--git-identity"), _NO_CREDENTIALS, "FILE"),
    OldFlag(("--passphrase",), _NO_CREDENTIALS, "TEXT"),
    OldFlag(("--user",), _NO_CREDENTIALS, "NAME"),
    OldFlag(("--password",), _NO_CREDENTIALS, "TEXT"),
    OldFlag(("--ssh-identity",), _SSH, "FILE"),
    OldFlag(("--local",), "a folder needs no git"),
    OldFlag(("--project",), "there are no projects; whoever is in the mesh sees the run", "NAME"),
)

F = TypeVar("F", bound=Callable[..., Any])


def old_flags(table: Sequence[OldFlag]) -> Callable[[F], F]:
    """Has a verb take old flags, say what became of them, and go on."""

    def add(function: F) -> F:
        for flag in table:
            function = click.option(
                *flag.spellings,
                hidden=True,
                is_flag=not flag.takes,
                expose_value=False,
                callback=_told(flag),
            )(function)
        return function

    return add


def _told(flag: OldFlag) -> Callable[[click.Context, click.Parameter, object], None]:
    def tell(ctx: click.Context, _: click.Parameter, value: object) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"{flag.spellings[-1]} is not needed: {flag.said}.", err=True)

    return tell
