"""What a supervisor does about leases: at its start, at repeated awards, at the end."""

import os
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.executor.port import Ended
from dstack_agent.executor.record import claim
from dstack_agent.jobs.places import folder_of
from dstack_agent.ledger import Ledger
from dstack_agent.records import Accepted
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Broken, Busy, Missing
from dstack_mesh.ids import Digest
from dstack_scheduler.job import Fin, JobKey, JobState, StateChange
from support.eventually import eventually_async
from support.job_bench import KEY, bench, is_so, lease


async def test_a_lease_whose_job_was_never_written_down_is_withdrawn_at_the_start(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "h") as on:
        award = lease(on)
        assert len(on.memory.ledger.leases()) == 1
    async with bench(tmp_path / "h") as on:
        assert on.memory.ledger.leases() == ()
        # The driver did not hear of the award: repeated, it must not seem to have succeeded.
        with pytest.raises(Missing):
            on.memory.ledger.commit(award)


async def test_a_job_that_could_not_begin_is_not_the_agents(tmp_path: Path) -> None:
    def unknown(accepted: Accepted) -> bool:
        raise Busy("The ledger is in use by another process.")

    async with bench(tmp_path / "h") as on:
        on.supervisor.workshop = replace(on.supervisor.workshop, is_own=unknown)
        with pytest.raises(Busy):
            await on.accept(on.spec())
        assert on.memory.records.unfinished() == []


async def test_an_award_that_is_repeated_asks_nothing_of_the_ledger(tmp_path: Path) -> None:
    def unknown(accepted: Accepted) -> bool:
        raise Busy("The ledger is in use by another process.")

    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        on.supervisor.workshop = replace(on.supervisor.workshop, is_own=unknown)
        await on.accept(on.spec())  # an error would take its lease away
        on.puppet.ended.set_result(Ended(0))
        await on.end(followed)


async def test_a_job_without_a_lease_never_starts_after_a_restart(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        await on.memory.records.accept(on.spec(), ())
    async with bench(tmp_path / "h") as on:
        fin = await on.end(on.supervisor.follow(KEY))
        assert (fin.state.state, fin.state.reason) == (JobState.LOST, "not-leased")
        assert on.puppet.launches == []


async def test_a_job_that_has_a_shim_goes_on_after_a_restart_without_a_lease(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "h") as on:
        await on.memory.records.accept(on.spec(), ())
        await on.memory.records.launching(KEY)
        folder = folder_of(on.home.jobs, KEY)
        folder.mkdir(parents=True)
        assert claim(str(folder), os.getpid())
    async with bench(tmp_path / "h") as on:
        followed = on.supervisor.follow(KEY)
        await on.until(followed, JobState.RUNNING)
        on.puppet.ended.set_result(Ended(0))
        assert (await on.end(followed)).state.state is JobState.DONE


async def test_a_lease_whose_job_ended_is_ended_at_the_start_and_remembered(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        award = lease(on)
        await on.memory.records.accept(on.spec(), ())
        done = StateChange(KEY, JobState.DONE, datetime.now(UTC))
        nothing = Digest(b"d" * 32)
        await on.memory.records.finish(Fin(KEY, done, 0, nothing, 0, nothing))
    async with bench(tmp_path / "h") as on:
        assert on.memory.ledger.leases() == ()
        assert on.memory.ledger.commit(award).ended


@pytest.mark.parametrize("failures", [1, 9])
async def test_a_job_that_ended_has_one_end_whatever_its_lease_does(
    tmp_path: Path, failures: int
) -> None:
    tries: list[int] = []

    class Stuck(Ledger):
        def end(self, key: JobKey) -> None:
            tries.append(1)
            if len(tries) <= failures:
                raise Broken("The ledger cannot be used.")
            super().end(key)

    async with bench(tmp_path / "h") as on:
        with closing(Stuck(tmp_path / "ledger.db", SystemClock())) as ledger:
            on.supervisor.workshop = replace(on.supervisor.workshop, ledger=ledger)
            followed = await on.accept(on.spec())
            await on.until(followed, JobState.RUNNING)
            on.puppet.ended.set_result(Ended(0))
            assert (await on.end(followed)).state.state is JobState.DONE
            await eventually_async(lambda: is_so(lambda: not on.supervisor.running()), 10)
        ends = [each for each in on.memory.records.history(KEY) if each.state.ended]
        assert [each.state for each in ends] == [JobState.DONE]
        assert on.puppet.stops == []
