"""Which runs names mean, in Python and in SQL, however many there are."""

import json
import sqlite3
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.named import MEANT, Named

IDS = st.text("0AZ", min_size=2, max_size=2)
RUN_NAMES = st.text("ab-.1", min_size=1, max_size=4)
NAMES = st.lists(st.one_of(IDS, st.text("ab-.1é\x7f\x00", max_size=3)), max_size=6)


def naively(names: list[str], run_id: str, run_name: str) -> bool:
    return any(run_id == name or run_name.startswith(name) for name in names)


@given(NAMES, st.lists(st.tuples(IDS, RUN_NAMES), max_size=8, unique_by=lambda run: run[0]))
def test_a_run_is_meant_by_its_id_or_a_beginning_of_its_name(
    names: list[str], runs: list[tuple[str, str]]
) -> None:
    named = Named.of(names)
    meant = {run_id for run_id, run_name in runs if naively(names, run_id, run_name)}
    assert {run_id for run_id, run_name in runs if named.means(run_id, run_name)} == meant
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE TABLE job (run_id TEXT, run_name TEXT)")
        db.executemany("INSERT INTO job VALUES (?, ?)", runs)
        rows = db.execute(f"SELECT run_id FROM job WHERE {MEANT.format(table='job')}", named.values)
        assert {row[0] for row in rows} == meant
    db.close()


def test_thousands_of_names_are_looked_for_at_once_and_not_one_by_one(tmp_path: Path) -> None:
    """Whoever may read asks for 10,000; an agent that is busy for seconds seems to be dead."""
    runs = [(f"{number:026d}", f"calm-ibex-{number}") for number in range(5_000)]
    named = Named.of(f"no-such-run-{number}" for number in range(10_000))
    with sqlite3.connect(tmp_path / "runs.db") as db:
        db.execute("CREATE TABLE job (run_id TEXT PRIMARY KEY, run_name TEXT)")
        db.execute("CREATE INDEX job_name ON job (run_name)")
        db.executemany("INSERT INTO job VALUES (?, ?)", runs)
        began = time.process_time()
        query = f"SELECT run_id FROM job WHERE {MEANT.format(table='job')}"
        assert db.execute(query, named.values).fetchall() == []
        assert not any(named.means(*run) for run in runs)
        assert time.process_time() - began < 1.0
    db.close()
    assert json.loads(named.values[0]), "what is looked for"
