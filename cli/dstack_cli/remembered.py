"""What this home submitted: so that `@` works and a run is shown even while its agents are away.

One line of JSON a run, appended; small enough to be read whole. Kept beside it is a plain list of
names for TAB completion, which starts no Python.
"""

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home

KEPT = 500
"""Runs remembered; older ones are dropped when the file is twice as long."""


@frozen
class Submitted:
    """A run that was submitted from here."""

    run_id: str
    run_name: str
    target: str
    owner: str
    repo: str
    submitted_at: str
    variables: dict[str, str]
    job_count: int = 1

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.submitted_at)


def remember(home: Home, submitted: Submitted) -> None:
    """Writes a run down. Several commands may do so at once: a line is one write."""
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = json.dumps(asdict(submitted)) + "\n"
    path = _file(home)
    with path.open("ab", buffering=0) as kept:
        kept.write(line.encode())
    with (home.state / "run-names").open("ab", buffering=0) as names:
        names.write(f"{submitted.run_name}\n".encode())


def recall(home: Home) -> list[Submitted]:
    """Runs that were submitted from here, newest first. A torn line is left out."""
    try:
        lines = _file(home).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    if len(lines) > 2 * KEPT:
        lines = lines[-KEPT:]
        _replace(_file(home), lines)
    known: dict[str, Submitted] = {}
    for line in lines:
        submitted = _parsed(line)
        if submitted is not None:
            known[submitted.run_id] = submitted
    return sorted(known.values(), key=lambda run: (run.submitted_at, run.run_id), reverse=True)


def submitted_now() -> str:
    """The time of day as it is kept."""
    return datetime.now(UTC).isoformat()


def _file(home: Home) -> Path:
    return home.state / "submitted.jsonl"


def _parsed(line: str) -> Submitted | None:
    try:
        return Submitted(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _replace(path: Path, lines: list[str]) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text("".join(f"{line}\n" for line in lines))
    fresh.replace(path)
