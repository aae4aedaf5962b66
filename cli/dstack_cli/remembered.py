"""What this home submitted: so that `@` works and a run is shown even while its agents are away.

One line of JSON a run, appended; small enough to be read whole. Kept beside it is a plain list of
names for TAB completion, which starts no Python, and what each run was made of, so that it can be
started again. Several commands may write at once: each has the lock while it does.
"""

import fcntl
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from dstack_mesh.durable import write_durably
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
    """Writes a run down."""
    line = json.dumps(asdict(submitted)) + "\n"
    with _locked(home):
        with _file(home).open("ab", buffering=0) as kept:
            kept.write(line.encode())
        with _names(home).open("ab", buffering=0) as names:
            names.write(f"{submitted.run_name}\n".encode())


def recall(home: Home) -> list[Submitted]:
    """Runs that were submitted from here, newest first. A torn line is left out."""
    lines = _lines(home)
    if len(lines) > 2 * KEPT:
        with _locked(home):
            lines = _lines(home)[-KEPT:]
            _replace(home, lines)
    known = {run.run_id: run for run in map(_parsed, lines) if run is not None}
    return sorted(known.values(), key=lambda run: (run.submitted_at, run.run_id), reverse=True)


def forget(home: Home, run_ids: Sequence[str]) -> None:
    """Forgets runs, and what they were made of."""
    with _locked(home):
        runs = ((line, _parsed(line)) for line in _lines(home))
        _replace(home, [line for line, run in runs if run is None or run.run_id not in run_ids])


def note_tags(home: Home, tags: Sequence[str]) -> None:
    """Notes the tags that were heard of, for TAB. Trouble waits for the next command."""
    _note(home.state / "tag-names", tags)


def note_runs(home: Home, names: Sequence[str]) -> None:
    """Notes the names of runs that were heard of: a new run takes none of them."""
    _note(_heard(home), names)


def heard_names(home: Home) -> set[str]:
    """Names that runs of others had when somebody last told of them."""
    try:
        return set(_heard(home).read_text(errors="replace").split())
    except OSError:
        return set()


def _heard(home: Home) -> Path:
    return home.state / "heard-names"


def _note(file: Path, names: Sequence[str]) -> None:
    noted = "".join(f"{name}\n" for name in dict.fromkeys(names)).encode()
    try:
        if noted != (file.read_bytes() if file.exists() else b""):
            write_durably(file, noted, sync=False)
    except OSError:
        return


def order_file(home: Home, run_id: str) -> Path:
    """Where it is kept what a run was made of; `orders` reads and writes it."""
    return home.state / "orders" / run_id


def submitted_now() -> str:
    """The time of day as it is kept."""
    return datetime.now(UTC).isoformat()


def _file(home: Home) -> Path:
    return home.state / "submitted.jsonl"


def _names(home: Home) -> Path:
    return home.state / "run-names"


@contextmanager
def _locked(home: Home) -> Generator[None]:
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home.state / "submitted.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lines(home: Home) -> list[str]:
    try:
        return _file(home).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _parsed(line: str) -> Submitted | None:
    try:
        return Submitted(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _replace(home: Home, lines: Sequence[str]) -> None:
    """Has these lines alone, the names of their runs, and what those were made of."""
    write_durably(_file(home), "".join(f"{line}\n" for line in lines).encode(), sync=False)
    runs = [run for run in map(_parsed, lines) if run is not None]
    names = "".join(f"{run.run_name}\n" for run in runs)
    write_durably(_names(home), names.encode(), sync=False)
    known = {run.run_id for run in runs}
    for file in order_file(home, "any").parent.glob("*"):
        if file.name not in known:
            file.unlink(missing_ok=True)
