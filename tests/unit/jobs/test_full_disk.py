"""Disks that are full, records that cannot be written, and errors that are neither."""

import errno
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.executor.port import Ended, Launch
from dstack_agent.jobs.event import StopAsked
from dstack_agent.records import Given, Records
from dstack_mesh.faults import Busy
from dstack_mesh.ids import Digest
from dstack_scheduler.job import NOTHING, Fin, JobKey, JobSpec, JobState, StateChange
from support.eventually import eventually_async
from support.job_bench import KEY, Bench, Puppet, bench, is_so


async def test_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    tries: list[int] = []

    def full_once(launch: Launch) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")

    async with bench(tmp_path / "h", Puppet(launching=full_once)) as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        on.puppet.ended.set_result(Ended(0))
        assert (await on.end(followed)).state.state is JobState.DONE
        assert len(tries) == 2


async def test_an_award_that_is_repeated_while_the_disk_is_full_succeeds(tmp_path: Path) -> None:
    class Full(Records):
        async def accept(
            self, spec: JobSpec, gpu_uuids: tuple[str, ...], given: Given | None = None
        ) -> bool:
            raise sqlite3.OperationalError("database or disk is full")

    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        full = Full(on.memory.records._database)  # pyright: ignore[reportPrivateUsage]
        on.supervisor.workshop = replace(on.supervisor.workshop, records=full)
        await on.accept(on.spec())
        with pytest.raises(Busy):
            await on.accept(replace(on.spec(), key=replace(KEY, job=1)))
        on.puppet.ended.set_result(Ended(0))
        assert (await on.end(followed)).state.state is JobState.DONE
        assert len(on.puppet.launches) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
async def test_what_is_not_the_disk_s_fault_is_not_tried_for_ever(
    tmp_path: Path, number: int
) -> None:
    def refuse(launch: Launch) -> None:
        raise OSError(number, os.strerror(number))

    async with bench(tmp_path / "h", Puppet(launching=refuse)) as on:
        fin = await on.end(await on.accept(replace(on.spec(), artifacts=("out",))))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "agent-failed")


class Full(Records):
    """Records on a disk that is full once a test says so."""

    full = False

    async def order_stop(self, key: JobKey, order: StopAsked) -> None:
        self._check()
        await super().order_stop(key, order)

    async def enter(self, change: StateChange) -> None:
        self._check()
        await super().enter(change)

    async def finish(self, fin: Fin, reuse_key: Digest = NOTHING) -> None:
        self._check()
        await super().finish(fin, reuse_key)

    def _check(self) -> None:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")


def on_full_records(on: Bench) -> Full:
    records = Full(on.memory.records._database)  # pyright: ignore[reportPrivateUsage]
    on.supervisor.workshop = replace(on.supervisor.workshop, records=records)
    return records


async def test_a_job_that_filled_the_disk_is_stopped_all_the_same(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        records = on_full_records(on)
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        records.full = True
        with pytest.raises(Busy):
            await on.supervisor.stop(KEY.run_id, None, False, "it fills my disk")
        await eventually_async(lambda: is_so(lambda: on.puppet.stops == [False]), 10)
        records.full = False
        fin = await on.end(followed)
        assert (fin.state.state, fin.state.cause) == (JobState.STOPPED, "it fills my disk")


async def test_a_stop_is_remembered_while_an_attempt_is_taken_up_again(tmp_path: Path) -> None:
    def full(launch: Launch) -> None:
        raise OSError(28, "No space left on device")

    async with bench(tmp_path / "h", Puppet(launching=full)) as on:
        records = on_full_records(on)
        on.supervisor.again_seconds = 0.5
        followed = await on.accept(on.spec())

        async def waits() -> bool:
            return any(each.reason == "held-up" for each in followed.chronicle.states())

        await eventually_async(waits, 10)
        records.full = True
        with pytest.raises(Busy):
            await on.supervisor.stop(KEY.run_id, None, False, "enough")
        records.full = False
        on.puppet.launching = lambda launch: None
        assert (await on.end(followed)).state.cause == "enough"
