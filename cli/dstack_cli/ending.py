"""How a run ended, as `run`, `attach` and `wait` tell scripts and people."""

from dstack_cli import exit_codes
from dstack_cli.output.port import Document
from dstack_cli.watching import why
from dstack_scheduler.job import StateChange

SCHEMA = "dstack.end/v1"


def end_document(name: str, end: StateChange) -> Document:
    """The end of a run."""
    code = exit_codes.of_end(end)
    return Document(
        fields={
            "schema": SCHEMA,
            "run": name,
            "status": end.state.value,
            "exit_code": code,
            "source": exit_codes.source_of(end),
            "reason": end.reason or end.cause,
        },
        text=f"{name} {end.state.value}, exit {code}{why(end)}",
        name=name,
    )


def unended_document(name: str, status: str) -> Document:
    """A run that goes on while we stop waiting for it."""
    return Document(
        fields={
            "schema": SCHEMA,
            "run": name,
            "status": status,
            "exit_code": exit_codes.TIME_LIMIT,
            "source": "dstack",
            "reason": "timeout",
        },
        text=f"{name} is still {status}; we stopped waiting.",
        name=name,
    )


def submitted_document(name: str, run_id: str) -> Document:
    """A run that goes on without us."""
    return Document(
        fields={"schema": "dstack.submitted/v1", "run": name, "id": run_id, "status": "submitted"},
        text=name,
        name=name,
    )
