"""Whose runs are driven here, and who takes them over."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.driving import Driving
from dstack_agent.ledger import Ledger
from dstack_agent.records import Records
from dstack_agent.steering import Steering
from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.run_ids import run_id
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.job import JobKey, RunRecord, StateChange
from support.machines import SetClock, question, spec

ANA, BEN = Asker(PeerId("a" * 32), "submitter"), Asker(PeerId("b" * 32), "submitter")
RUNNER = Asker(PeerId("c" * 32), "runner")
JOB = spec(question(key=JobKey(run_id(1, 0, ANA.peer_id), 0)), code=Digest(b"c" * 32))
RUN = RunRecord(JOB.key.run_id, JOB.run_name, "train", "ana@laptop", JOB.submitted_at, 1)


class Endless:
    """A driver that has not come to an end yet."""

    async def run(self) -> StateChange:
        await asyncio.Event().wait()
        raise AssertionError("nobody ends it")

    def stop(self, abort: bool, cause: str) -> None:
        raise AssertionError("nobody asked for it")


@asynccontextmanager
async def steering(folder: Path) -> AsyncGenerator[Steering]:
    database, ledger = Database(folder / "agent.db"), Ledger(folder / "ledger.db", SetClock())
    driving = Driving(DrivenRuns(database), lambda submission, watcher: Endless())
    running = asyncio.create_task(driving.run())
    await asyncio.sleep(0)
    try:
        yield Steering(cast("Any", None), driving, Records(database), ledger)
    finally:
        running.cancel()
        await asyncio.wait([running])
        ledger.close()
        database.close()


async def drive(by: Asker, here: Steering, epoch: int = 2) -> None:
    await here.drive(RUN, (DrivenJob(JOB),), epoch, by)


async def test_a_run_that_is_driven_for_one_is_taken_over_by_no_other_submitter(
    tmp_path: Path,
) -> None:
    async with steering(tmp_path) as here:
        await drive(ANA, here)
        with pytest.raises(Forbidden) as refused:
            await drive(BEN, here, epoch=3)
        assert refused.value.code == "not-your-run"
        assert here.driving.giver(RUN.run_id) == ANA.peer_id
        for epoch, by in enumerate((ANA, RUNNER, OWNER), start=4):
            await drive(by, here, epoch)


async def test_nobody_hands_over_a_run_of_another_submitter_first(tmp_path: Path) -> None:
    async with steering(tmp_path) as here:
        with pytest.raises(Forbidden) as refused:
            await drive(BEN, here, epoch=99)
        assert refused.value.code == "not-your-run"
        assert here.driving.giver(RUN.run_id) is None
        await drive(ANA, here)
