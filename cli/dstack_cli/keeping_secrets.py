"""What `dstack secrets` does, and which values a run takes along."""

import sys
from collections.abc import Sequence
from getpass import getpass
from pathlib import Path

from dstack_cli.consent import agreed
from dstack_cli.misused import Misused
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Listing, Output
from dstack_cli.output.table import Column, Table
from dstack_cli.secret_store import SecretStore, secret_exists
from dstack_mesh.home import Home
from dstack_mesh.sealing import seal_memory
from dstack_scheduler.plan import Plan
from dstack_scheduler.secret import check_value, why_no_name

SCHEMA = "dstack.secrets/v1"

STDIN = "-"
"""Stands for a value that is read from standard input."""


def show(home: Home, output: Output) -> None:
    """Lists names; a value is shown to nobody."""
    store = SecretStore.of_folder(home, Path.cwd())
    names = list(store.read())
    output.listing(
        Listing(
            schema=SCHEMA,
            items=[{"name": name} for name in names],
            table=Table((Column("NAME"),), tuple((name,) for name in names)),
            names=names,
            empty=f"No secrets of {store.scope}. Keep one: dstack secrets add NAME",
        )
    )


def add(home: Home, name: str, value: str | None, yes: bool) -> None:
    """Keeps a secret; asks before it replaces one."""
    _check_name(name)
    store = SecretStore.of_folder(home, Path.cwd())
    over = name in store.read()
    if over and not yes and not agreed(f"Replace the secret {name}?"):
        raise secret_exists(name)
    store.put(name, _value(name, value), over)
    chosen().talk(f"{name} is kept for {store.scope}, in this home only.")


def update(home: Home, name: str, value: str | None) -> None:
    """Replaces the value of a secret."""
    _check_name(name)
    store = SecretStore.of_folder(home, Path.cwd())
    if name in store.read():
        value = _value(name, value)
    store.put(name, value or "", over=True)
    chosen().talk(f"{name} has its new value. Runs that go on keep the old one.")


def delete(home: Home, name: str, yes: bool) -> None:
    """Forgets a secret."""
    store = SecretStore.of_folder(home, Path.cwd())
    if name in store.read() and not yes and not agreed(f"Forget the secret {name}?"):
        raise Misused(f"The secret {name} stays.", "Nobody said yes.", "-y says it", code="usage")
    store.remove(name)
    chosen().talk(f"{name} is forgotten.")


def values_of(home: Home, folder: Path, plan: Plan, detach: bool) -> dict[str, str]:
    """The values that a run needs.

    Raises:
        Misused: One is not kept here; or nobody with the values would be there for a later job.
    """
    names = list(dict.fromkeys(name for job in plan.jobs for name in job.secrets_needed))
    if not names:
        return {}
    values = kept_values(home, folder, names)
    late = [job.workflow for job in plan.jobs if job.secrets_needed and job.after]
    if detach and late:
        raise need_you(late)
    return values


def kept_values(home: Home, folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The values of secrets. Raises Misused if one is not kept here."""
    seal_memory()
    store = SecretStore.of_folder(home, folder)
    kept = store.read()
    absent = [name for name in names if name not in kept]
    if absent:
        raise Misused(
            f"There is no secret {', '.join(absent)} here; nothing was sent.",
            f"The workflow asks for it, and {store.scope} has {', '.join(kept) or 'none'}.",
            "\n".join(f"dstack secrets add {name}" for name in absent),
            code="no-such-secret",
        )
    return {name: kept[name] for name in names}


def need_you(late: Sequence[str]) -> Misused:
    """The error of a run that would lack secrets once its submitter has left."""
    return Misused(
        f"The run cannot go on without you: {', '.join(late)} will need secrets.",
        "Values are kept in this home alone and travel when a job is awarded; "
        "an agent that drives the rest of the run has none.",
        "leave -d away and stay until the last of these jobs has its agent",
        code="secrets-need-you",
    )


def _check_name(name: str) -> None:
    why = why_no_name(name)
    if why:
        raise Misused(f"{name!r} cannot be the name of a secret.", f"{why}.", code="bad-secret")


def _value(name: str, given: str | None) -> str:
    seal_memory()
    if given == STDIN:
        value = _without_last_newline(sys.stdin.buffer.read())
    elif given is not None:
        chosen().talk(
            "  a value on the command line stays in the shell's history and was seen by ps; "
            f"better: dstack secrets update {name}"
        )
        value = given
    elif sys.stdin.isatty():
        value = getpass(f"Value of {name} (not shown): ")
    else:
        raise Misused(
            f"{name} has no value.",
            "Nobody is there to type it.",
            f"dstack secrets add {name} - < FILE",
            code="usage",
        )
    check_value(name, value)
    return value


def _without_last_newline(data: bytes) -> str:
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        what = "The value is not text."
        raise Misused(what, "A variable holds UTF-8.", "base64 it", code="bad-secret") from None
