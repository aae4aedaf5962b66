"""Which job folders go when an agent starts."""

import os
from pathlib import Path

from dstack_agent.jobs.folders import DAY_SECONDS, Keeping, remove_work, sweep
from dstack_agent.jobs.places import folder_of
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey
from support.deep import LONG, make_deep

NOW = 1_800_000_000.0
KEYS = [JobKey(RunId(f"{number:026d}"), 0, 1) for number in range(4)]


def made(jobs: Path, key: JobKey, days_ago: float, size: int = 10) -> Path:
    folder = folder_of(jobs, key)
    folder.mkdir(parents=True)
    (folder / "journal").write_bytes(os.urandom(size))
    at = NOW - days_ago * DAY_SECONDS
    for path in (folder / "journal", folder):
        os.utime(path, (at, at))
    return folder


def test_logs_of_jobs_that_ended_long_ago_go_and_no_others(tmp_path: Path) -> None:
    old, new = made(tmp_path, KEYS[0], 31), made(tmp_path, KEYS[1], 29)
    running = made(tmp_path, KEYS[2], 365)
    beside = tmp_path / "notes of a person"
    beside.mkdir()
    os.utime(beside, (0, 0))
    sweep(tmp_path, {KEYS[0], KEYS[1]}, Keeping(days=30), NOW)
    assert [folder.exists() for folder in (old, new, running, beside)] == [False, True, True, True]


def test_beyond_the_size_the_oldest_go_first(tmp_path: Path) -> None:
    folders = [made(tmp_path, key, days_ago, 100_000) for days_ago, key in enumerate(KEYS)]
    sweep(tmp_path, set(KEYS), Keeping(size_bytes=250_000), NOW)
    assert [folder.exists() for folder in folders] == [True, True, False, False]


def test_a_link_in_the_place_of_a_job_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    folder_of(jobs, KEYS[0]).symlink_to(target)
    sweep(jobs, {KEYS[0]}, Keeping(days=0.0001), NOW * 2)
    assert target.exists()


def test_folders_deeper_than_any_path_are_removed_too(tmp_path: Path) -> None:
    left, old = made(tmp_path, KEYS[0], 1), made(tmp_path, KEYS[1], 31)
    make_deep(left / "work")
    make_deep(old / "work", 20, LONG)
    remove_work(left)
    assert [path.name for path in left.iterdir()] == ["journal"]
    sweep(tmp_path, {KEYS[1]}, Keeping(days=30), NOW)
    assert not old.exists()
