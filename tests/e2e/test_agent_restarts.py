"""Agents that die or are told to end, and the jobs that go on."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobState, LogFrame, TagRecord
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import AgentProcess
from support.eventually import eventually_async
from support.one_agent import Reading, award, code, spec_of

NUMBERS = "i=0; while [ $i -lt 4000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; exit 3"


async def test_five_kills_of_the_agent_lose_nothing_and_double_nothing(
    process: AgentProcess,
) -> None:
    slow = NUMBERS.replace("i=$((i+1))", "i=$((i+1)); [ $((i%10)) -ne 0 ] || sleep 0.01")
    async with process.agent() as agent:
        reading = Reading(await award(agent, spec_of(code(process), slow)))
    for kill in range(5):
        async with process.agent() as agent:
            await read_a_while(agent, reading, 200 * (kill + 1))
        process.kill()
        seconds = process.start()
        assert seconds < 5
    async with process.agent() as agent:
        await reading.read(agent)
        (listed,) = (await agent.list_runs([])).runs
    reading.check()
    assert reading.stdout == b"".join(b"line %d\n" % i for i in range(4000))
    assert reading.stderr == b"".join(b"err %d\n" % i for i in range(4000))
    assert reading.words == ["preparing", "running", "saving", "failed"]
    assert reading.ended.exit_code == 3
    assert listed.jobs[0].state.state is JobState.FAILED


async def read_a_while(agent: GrpcAgent, reading: Reading, lines: int) -> None:
    async with agent.attach() as attachment, asyncio.timeout(30):
        await reading.follow(attachment)
        async for event in attachment.events():
            if reading.take(event) or reading.stdout.count(b"\n") >= lines:
                return


async def test_a_job_that_ended_while_no_agent_was_there_is_finished_by_the_next(
    process: AgentProcess,
) -> None:
    async with process.agent() as agent:
        spec = spec_of(code(process), "echo x > out/x; echo up; sleep 1; echo down; exit 3")
        key = await award(agent, replace(spec, artifacts=("out",)))
        await read_a_while(agent, Reading(key), 1)
    process.kill()
    folder = next(process.home.jobs.iterdir())

    async def over() -> bool:
        return (folder / "exit.json").exists()

    await eventually_async(over, 20)
    process.start()
    async with process.agent() as agent:
        reading = await Reading(key).read(agent)
    reading.check()
    assert reading.stdout == b"up\ndown\n"
    assert reading.ended.exit_code == 3
    assert reading.fin is not None
    assert [artifact.complete for artifact in reading.fin.artifacts] == [False]


async def test_a_stop_is_remembered_when_the_agent_dies_right_after_it(
    process: AgentProcess,
) -> None:
    async with process.agent() as agent:
        spec = spec_of(code(process), "trap '' TERM; echo up; sleep 60")
        key = await award(agent, replace(spec, stop_grace_seconds=1.0))
        await read_a_while(agent, Reading(key), 1)
        assert await agent.stop(key.run_id, None, False, "stopped by ana") == 1
    process.kill()
    process.start()
    async with process.agent() as agent:
        reading = await Reading(key).read(agent)
    assert (reading.ended.state, reading.ended.cause) == (JobState.STOPPED, "stopped by ana")


async def test_sigterm_lets_jobs_go_on_and_ends_within_two_seconds(process: AgentProcess) -> None:
    async with process.agent() as agent:
        key = await award(agent, spec_of(code(process), "echo up; sleep 2; echo down"))
        reading = Reading(key)
        async with agent.attach() as attachment:
            await reading.follow(attachment)
            with pytest.raises(MeshError):
                async for event in attachment.events():
                    reading.take(event)
                    if isinstance(event, LogFrame):
                        assert await asyncio.to_thread(process.stop) < 2
    process.start()
    async with process.agent() as agent:
        await reading.read(agent)
    reading.check()
    assert reading.stdout == b"up\ndown\n"


async def test_a_tag_is_listed_and_survives_a_restart(process: AgentProcess) -> None:
    tag = TagRecord("lab/x", "v1", RunId("0" * 26), "calm-ibex-1", datetime.now(UTC))
    async with process.agent() as agent:
        await agent.tag(tag)
    process.kill()
    process.start()
    async with process.agent() as agent:
        assert (await agent.list_runs([])).tags == (tag,)
