"""What a member may do follows from what it was invited as, whatever it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dstack_mesh.faults import Forbidden, MeshError
from dstack_mesh.ids import PeerId, RunId, RunName
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import job_pb2
from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc
from dstack_mesh.wire.errors import translated
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import RunRecord
from dstack_scheduler.wire import convert
from dstack_scheduler.wire.behalf import behalf_to_wire
from support.asked_runs import SUBMITTER, asked_by

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

Stop = Callable[[Any, RunId], Awaitable[None]]


async def stop_by_call(stub: rpc.RunServiceAsyncStub, run: RunId) -> None:
    with translated("ws-1"):
        await stub.Stop(pb.StopRequest(run_id=run), timeout=5)


async def stop_by_stream(stub: rpc.RunServiceAsyncStub, run: RunId) -> None:
    with translated("ws-1"):
        call = stub.Attach(timeout=5)
        await call.write(pb.AttachRequest(stop=pb.StopRequest(run_id=run)))
        await call.done_writing()
        assert [one async for one in call] == []


@pytest.mark.parametrize("stop", [stop_by_call, stop_by_stream])
async def test_a_reader_lists_runs_and_stops_none(tmp_path: Path, stop: Stop) -> None:
    async with asked_by(Role.READER, tmp_path) as (stub, told, _):
        await stub.List(pb.ListRequest(), timeout=5)
        with pytest.raises(Forbidden):
            await stop(stub, told.run)
    assert told.stopped == []


async def test_edits_are_asked_for_under_one_s_own_name_alone(tmp_path: Path) -> None:
    behalf = behalf_to_wire(Asker(SUBMITTER, Role.SUBMITTER.value))
    async with asked_by(Role.RUNNER, tmp_path, own=False) as (stub, told, _):
        key = job_pb2.JobKey(run_id=told.run, job=0, attempt=1)
        request = pb.ReloadRequest(key=key, code_digest=b"c" * 32)
        done = await stub.Reload(request, timeout=5, metadata=behalf)
    assert (done.made, done.removed) == (1, 2)
    assert len(told.edited) == 1 and SUBMITTER not in told.edited


@pytest.mark.parametrize("role", [Role.SUBMITTER, Role.RUNNER])
@pytest.mark.parametrize("stop", [stop_by_call, stop_by_stream])
async def test_who_may_submit_may_stop(tmp_path: Path, role: Role, stop: Stop) -> None:
    async with asked_by(role, tmp_path) as (stub, told, _):
        await stop(stub, told.run)
    assert told.stopped == [told.run]


def record_of(run: RunId) -> RunRecord:
    return RunRecord(run, RunName("calm-ibex-1"), "train", "ana@laptop", EPOCH, 1)


async def take_over(stub: rpc.RunServiceAsyncStub, run: RunId) -> None:
    with translated("ws-1"):
        record = convert.run_record_to_wire(record_of(run))
        await stub.Drive(pb.DriveRequest(record=record, epoch=2), timeout=5)


@pytest.mark.parametrize("act", [stop_by_call, stop_by_stream, take_over])
@pytest.mark.parametrize("role", list(Role))
async def test_a_submitter_stops_and_takes_over_its_own_runs_only(
    tmp_path: Path, role: Role, act: Stop
) -> None:
    """Runners do, because they drive runs of others; admins and the root may.

    Also where nothing of it goes on: its jobs there were not tried again, and it was blocked.
    """
    may = role in {Role.RUNNER, Role.ADMIN, Role.ROOT}
    async with asked_by(role, tmp_path, own=False) as (stub, told, _):
        if may:
            await act(stub, told.run)
        else:
            with pytest.raises(Forbidden) as refused:
                await act(stub, told.run)
            assert refused.value.code == ("not-your-run" if role is Role.SUBMITTER else "no-right")
    assert bool(told.stopped or told.driven) is may


@pytest.mark.parametrize(
    ("behind", "refusal"),
    [
        (Asker(SUBMITTER, "submitter"), ""),
        (Asker(PeerId("m" * 32), "submitter"), "not-your-run"),
        (Asker(PeerId("m" * 32), "reader"), "no-right"),
        (Asker(PeerId("m" * 32), "admin"), ""),
        (Asker(PeerId("m" * 32), "king"), "invalid"),
    ],
)
async def test_a_runner_that_drives_for_somebody_may_no_more_than_they(
    tmp_path: Path, behind: Asker, refusal: str
) -> None:
    """Else whoever hands a run of others to a runner would have it stopped by that runner."""

    async def stop(stub: rpc.RunServiceAsyncStub, run: RunId) -> None:
        with translated("ws-1"):
            request = pb.StopRequest(run_id=run)
            await stub.Stop(request, timeout=5, metadata=behalf_to_wire(behind))

    async with asked_by(Role.RUNNER, tmp_path, own=False) as (stub, told, _):
        if refusal:
            with pytest.raises(MeshError) as refused:
                await stop(stub, told.run)
            assert refused.value.code == refusal
        else:
            await stop(stub, told.run)
    assert bool(told.stopped) is not bool(refusal)
