"""Kept environments: whole or not there, never changed unnoticed, bounded."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_agent.environments.keeping import KeptEnvironments, Pruned, measured
from dstack_agent.executor.foreign import remove_tree
from dstack_agent.executor.pythons import own
from dstack_agent.executor.virtualenv import make_virtual_environment
from dstack_mesh.faults import Refused
from support.deep import LONG, make_deep
from support.rounds import rounds, seeded


@pytest.fixture
def kept(tmp_path: Path) -> KeptEnvironments:
    return KeptEnvironments(tmp_path / "environments", tmp_path / "jobs")


def keep(kept: KeptEnvironments, key: str, size: int = 10) -> Path:
    with kept.locked(key) as mine:
        assert mine
        folder = kept.draft(key)
        (folder / "conda-meta").mkdir()
        (folder / "module.py").write_bytes(b"x" * size)
        kept.seal(key, folder, "x")
        return folder


def find(kept: KeptEnvironments, key: str) -> Path | None:
    with kept.locked(key) as mine:
        assert mine
        return kept.find(key)


def test_what_has_no_seal_is_never_found(kept: KeptEnvironments) -> None:
    with kept.locked("k"):
        (kept.draft("k") / "half.py").touch()
    assert find(kept, "k") is None
    folder = keep(kept, "k")
    assert find(kept, "k") == folder


def test_what_was_changed_is_not_used_again(kept: KeptEnvironments) -> None:
    folder = keep(kept, "k")
    folder.chmod(0o755)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "module.pyc").touch()
    assert find(kept, "k") == folder, "what an interpreter writes for itself is no change"
    module = folder / "module.py"
    module.chmod(0o644)
    module.write_bytes(b"y" * 10)
    assert find(kept, "k") is None


@pytest.mark.parametrize("change", ["add", "remove", "grow"])
def test_every_kind_of_change_is_seen(tmp_path: Path, change: str) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    before = measured(tmp_path)[1]
    assert measured(tmp_path)[1] == before
    match change:
        case "add":
            (tmp_path / "c").touch()
        case "remove":
            (tmp_path / "b").unlink()
        case _:
            (tmp_path / "a").write_text("aa")
    assert measured(tmp_path)[1] != before


def test_one_process_at_a_time_has_a_key(kept: KeptEnvironments) -> None:
    with kept.locked("k") as mine, kept.locked("k") as theirs, kept.locked("other") as other:
        assert (mine, theirs, other) == (True, False, True)
    with kept.locked("k") as mine:
        assert mine


def test_what_a_job_uses_is_not_pruned(kept: KeptEnvironments) -> None:
    used, unused = keep(kept, "used"), keep(kept, "unused")
    job = kept.jobs / "r.0.1" / "venv"
    make_virtual_environment(own(), job, used)
    (kept.root / "half.1234").mkdir()
    assert kept.prune(dry_run=True).environments == 1
    assert unused.exists()
    assert kept.prune(dry_run=False).environments == 1
    assert find(kept, "used") == used
    assert [unused.exists(), (kept.root / "half.1234").exists()] == [False, False]
    assert kept.prune(dry_run=False) == Pruned()


def test_those_that_were_not_used_for_longest_go_first(tmp_path: Path) -> None:
    kept = KeptEnvironments(tmp_path / "e", tmp_path / "jobs", most_bytes=5 << 16)
    for number, key in enumerate("abc"):
        keep(kept, key, 1 << 16)
        os.utime(kept.root / f"{key}.json", (number, number))
    assert kept.keep_within_bounds() == Pruned()
    find(kept, "a")
    kept.most_bytes = 5 << 15
    kept.keep_within_bounds()
    assert [find(kept, key) is not None for key in "abc"] == [True, False, True]


BUILD = """
import sys
import time
from pathlib import Path
from dstack_agent.environments.keeping import KeptEnvironments
kept = KeptEnvironments(Path(sys.argv[1]), Path(sys.argv[1]) / "jobs")
with kept.locked("k") as mine:
    assert mine
    folder = kept.draft("k")
    print("began", flush=True)
    for number in range(200):
        (folder / f"{number}.py").write_text("x" * 100)
    kept.seal("k", folder, "x")
print("sealed", flush=True)
"""


def build(kept: KeptEnvironments) -> "subprocess.Popen[bytes]":
    """A builder of 200 files that has begun."""
    builder = subprocess.Popen(
        (sys.executable, "-c", BUILD, str(kept.root)), stdout=subprocess.PIPE
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == b"began\n"
    return builder


def test_a_builder_that_is_killed_leaves_nothing_that_is_used(kept: KeptEnvironments) -> None:
    """Killed at a random moment, `DSTACK_CHAOS_ROUNDS` times: all of it is there, or nothing."""
    dice, halves, began = seeded("builders"), 0, time.monotonic()
    build(kept).communicate()
    longest = time.monotonic() - began
    for _ in range(rounds(4)):
        kept.prune(dry_run=False)
        assert not [each for each in kept.root.iterdir() if each.is_dir()]
        builder = build(kept)
        try:
            builder.wait(dice.random() * longest)
        except subprocess.TimeoutExpired:
            builder.send_signal(signal.SIGKILL)
        builder.communicate()
        found = find(kept, "k")
        halves += found is None
        assert found is None or len(list(found.iterdir())) == 200
    print(f"{halves} of {rounds(4)} were killed before the seal")


@pytest.mark.parametrize(("many", "name"), [(102, "d"), (20, LONG)])
def test_what_is_deeper_than_an_environment_is_gets_no_seal(
    kept: KeptEnvironments, many: int, name: str
) -> None:
    with kept.locked("k"):
        folder = kept.draft("k")
        make_deep(folder, many, name)
        with pytest.raises(Refused):
            kept.seal("k", folder, "x")
    assert find(kept, "k") is None
    assert remove_tree(folder) is None


def test_what_grew_deep_later_is_another_one_and_goes(kept: KeptEnvironments) -> None:
    folder = keep(kept, "k")
    folder.chmod(0o755)
    make_deep(folder / "deep", 20, LONG)
    assert find(kept, "k") is None
    kept.prune(dry_run=False)
    assert not folder.exists()


class TakenMeanwhile(KeptEnvironments):
    """A job takes an environment into use just before it is looked at whether one does."""

    taken: Path

    @contextmanager
    def locked(self, key: str) -> Generator[bool]:
        make_virtual_environment(own(), self.jobs / "r.0.1" / "venv", self.taken)
        with KeptEnvironments.locked(self, key) as mine:
            yield mine


def test_what_a_job_took_into_use_meanwhile_stays(kept: KeptEnvironments) -> None:
    folder = keep(kept, "k")
    others = TakenMeanwhile(kept.root, kept.jobs)
    others.taken = folder
    assert others.prune(dry_run=False) == Pruned()
    assert find(kept, "k") == folder


def test_what_is_not_there_is_not_found_though_there_was_nothing_in_it(
    kept: KeptEnvironments,
) -> None:
    with kept.locked("k"):
        folder = kept.draft("k")
        kept.seal("k", folder, "x")
    assert remove_tree(folder) is None
    assert find(kept, "k") is None
