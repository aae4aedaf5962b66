"""Drivers in several processes want the cards of one ledger at once, for real."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dstack_agent.ledger import Ledger
from dstack_mesh.clock import SystemClock

ROUNDS = 200


def race(folder: Path, rounds: int, *words: str) -> dict[str, int]:
    """Two processes of four drivers each, on one ledger."""
    (folder / "cards").mkdir()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "support.contenders"),
                *(str(folder / "ledger.db"), str(folder / "cards"), first, str(rounds), *words),
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in ("10", "20")
    ]
    results = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    seen = [json.loads(result) for result in results]
    return {word: sum(each[word] for each in seen) for word in ("awards", "clashes")}


def test_eight_drivers_never_share_a_card(tmp_path: Path) -> None:
    seen = race(tmp_path, ROUNDS)
    assert seen["clashes"] == 0
    assert seen["awards"] >= ROUNDS, "somebody always wins"
    ledger = Ledger(tmp_path / "ledger.db", SystemClock())
    assert ledger.taken() == ()
    ledger.close()


def test_drivers_that_do_not_ask_the_ledger_are_caught(tmp_path: Path) -> None:
    assert race(tmp_path, 2000, "careless")["clashes"] > 0
