"""The daemon as a process: jobs through its socket, and what its death does to them: nothing."""

import asyncio
import secrets
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_mesh.faults import Missing, Refused, Unreachable
from dstack_mesh.ids import Digest, RunId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import ArtifactSaved, Input, JobKey, JobState, LogFrame, RunRecord
from support.agent_process import RUNNER, AgentProcess, agent_process, environment
from support.eventually import eventually, eventually_async
from support.holding import files_holding
from support.one_agent import Reading, award, code, run, spec_of


async def test_a_job_runs_and_its_streams_arrive_apart_with_their_hashes(
    process: AgentProcess,
) -> None:
    reading = await run(process, "echo out; echo err >&2", "printf tail")
    assert (reading.stdout, reading.stderr) == (b"out\ntail", b"err\n")
    assert reading.words == ["preparing", "running", "saving", "done"]
    assert (reading.ended.exit_code, reading.ended.reason) == (0, "")
    assert reading.order[-2:] == ["saving", "done"]


@pytest.mark.parametrize(
    ("command", "exit_code", "state"),
    [
        ("exit 0", 0, JobState.DONE),
        ("exit 3", 3, JobState.FAILED),
        ("kill -9 $$", 137, JobState.FAILED),
    ],
)
async def test_the_exit_code_is_the_jobs_own(
    process: AgentProcess, command: str, exit_code: int, state: JobState
) -> None:
    ended = (await run(process, command)).ended
    assert (ended.exit_code, ended.state) == (exit_code, state)


async def test_a_line_is_seen_while_the_job_goes_on_and_half_a_line_soon(
    process: AgentProcess,
) -> None:
    async with process.agent() as agent:
        key = await award(agent, spec_of(code(process), "printf 'one\\ntw'; sleep 60"))
        reading = Reading(key)
        async with agent.attach() as attachment, asyncio.timeout(10):
            await reading.follow(attachment)
            async for event in attachment.events():
                reading.take(event)
                if reading.stdout == b"one\ntw":
                    break
        await agent.stop(key.run_id, None, True, "enough")


async def test_what_exists_can_be_read_without_waiting_for_more(process: AgentProcess) -> None:
    async with process.agent() as agent:
        key = await award(agent, spec_of(code(process), "echo hi; sleep 60"))

        async def seen() -> bool:
            return (await Reading(key).read(agent, until_now=True)).stdout == b"hi\n"

        await eventually_async(seen, 10)
        newest = Reading(replace(key, attempt=0))
        assert (await newest.read(agent, until_now=True)).stdout == b"hi\n"
        await agent.stop(key.run_id, None, True, "enough")


async def test_a_stop_ends_the_job_politely_and_keeps_its_artifacts(process: AgentProcess) -> None:
    async with process.agent() as agent:
        spec = spec_of(
            code(process),
            "trap 'echo last > model/m; exit 0' TERM",
            "echo up; while true; do sleep 0.1; done",
        )
        key = await award(agent, replace(spec, artifacts=("model",)))
        reading = Reading(key)
        async with agent.attach() as attachment, asyncio.timeout(20):
            await reading.follow(attachment)
            async for event in attachment.events():
                if reading.take(event):
                    break
                if isinstance(event, LogFrame):
                    await attachment.stop(key, False, "stopped by ana@laptop")
        assert reading.words == ["preparing", "running", "stopping", "saving", "stopped"]
        assert reading.ended.cause == "stopped by ana@laptop"
        assert reading.fin is not None
        (artifact,) = reading.fin.artifacts
        assert (artifact.path, artifact.complete, artifact.size_bytes) == ("model", True, 5)
        assert await agent.stop(key.run_id, None, False, "again") == 0


async def test_an_abort_kills_at_once_and_keeps_nothing(process: AgentProcess) -> None:
    async with process.agent() as agent:
        spec = spec_of(code(process), "trap '' TERM; echo x > model/m; echo up; sleep 60")
        key = await award(agent, replace(spec, artifacts=("model",), stop_grace_seconds=60))
        reading = Reading(key)
        async with agent.attach() as attachment, asyncio.timeout(20):
            await reading.follow(attachment)
            async for event in attachment.events():
                if reading.take(event):
                    break
                if isinstance(event, LogFrame):
                    await agent.stop(key.run_id, 0, True, "aborted by ana@laptop")
        assert reading.words == ["preparing", "running", "aborting", "aborted"]
        assert reading.fin is not None
        assert reading.fin.artifacts == ()
        (listed,) = (await agent.list_runs([key.run_id])).runs
        assert listed.jobs[0].artifacts == ()


async def test_artifacts_are_saved_while_the_job_runs_and_whole_at_its_end(
    process: AgentProcess,
) -> None:
    async with process.agent() as agent:
        spec = spec_of(
            code(process),
            "echo one > out/a",
            "while [ ! -e ../go ]; do sleep 0.05; done",
            "echo two > out/b",
        )
        key = await award(agent, replace(spec, artifacts=("out", "none")))
        reading = Reading(key)
        async with agent.attach() as attachment, asyncio.timeout(30):
            await reading.follow(attachment)
            async for event in attachment.events():
                if reading.take(event):
                    break
                if isinstance(event, ArtifactSaved) and event.files == 1:
                    assert not event.complete
                    next(process.home.jobs.iterdir()).joinpath("go").touch()
        assert reading.fin is not None
        kept = {artifact.path: artifact for artifact in reading.fin.artifacts}
        assert (kept["out"].files, kept["out"].complete) == (2, True)
        assert (kept["none"].files, kept["none"].complete) == (0, True)
        follow_up = spec_of(code(process), "cat in/a in/b; cat sub/out/a")
        inputs = (Input(kept["out"].digest, "in"), Input(kept["out"].digest, "sub/out"))
        second = await award(agent, replace(follow_up, inputs=inputs))
        assert (await Reading(second).read(agent)).stdout == b"one\ntwo\none\n"
    eventually(lambda: not list(process.home.jobs.glob("*/work")), 5)


async def test_the_code_is_in_place_and_the_working_directory_is_obeyed(
    process: AgentProcess,
) -> None:
    async with process.agent() as agent:
        digest = code(process, hello_py="print('from code')")
        spec = spec_of(digest, "python ../hello.py; pwd | sed 's:.*/::'")
        key = await award(agent, replace(spec, working_dir="deep"))
        assert (await Reading(key).read(agent)).stdout == b"from code\ndeep\n"


async def test_secrets_reach_the_job_and_no_file(process: AgentProcess) -> None:
    value = f"s3cr3t-{secrets.token_hex(8)}"
    async with process.agent() as agent:
        spec = spec_of(code(process), 'echo "${#TOKEN}"', "exit 1")
        key = await award(agent, replace(spec, secret_names=("TOKEN",)), {"TOKEN": value})
        assert (await Reading(key).read(agent)).stdout.strip() == str(len(value)).encode()
        assert files_holding(process.home.root, b"TOKEN") != []
        assert files_holding(process.home.root, value.encode()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": (Input(Digest(b"x" * 32), "in", (), "prepare"),)}, "input-unreachable"),
        ({"artifacts": ("../out",)}, "path-not-allowed"),
        ({"artifacts": ("/usr/lib/x",)}, "path-not-allowed"),
        ({"artifacts": ("hello.py",)}, "artifact-is-file"),
    ],
)
async def test_a_job_that_cannot_be_prepared_says_why_and_never_starts(
    process: AgentProcess, change: dict[str, object], reason: str
) -> None:
    async with process.agent() as agent:
        spec = spec_of(code(process, hello_py="1"), "echo no")
        key = await award(agent, replace(spec, **change))  # pyright: ignore[reportArgumentType]
        reading = await Reading(key).read(agent)
    reading.check()
    assert reading.words == ["preparing", "failed"]
    assert (reading.ended.reason, reading.ended.exit_code) == (reason, None)
    assert reading.ended.cause
    assert reading.stdout == b""


async def test_a_time_limit_is_a_reason_of_its_own(process: AgentProcess) -> None:
    async with process.agent() as agent:
        spec = replace(spec_of(code(process), "sleep 60"), max_duration_seconds=0.5)
        reading = await Reading(await award(agent, spec)).read(agent)
    assert (reading.ended.state, reading.ended.reason) == (JobState.FAILED, "time-limit")


async def test_ten_megabytes_arrive_byte_for_byte_on_both_streams(process: AgentProcess) -> None:
    command = "head -c 10000000 /dev/urandom > r; sha256sum r >&2; cat r; cat r >&2"
    reading = await run(process, command)
    assert len(reading.stdout) == 10_000_000
    assert reading.stderr.endswith(reading.stdout)


async def test_two_agents_never_share_a_home(process: AgentProcess) -> None:
    home = str(process.home.root)
    command = [*RUNNER, "start", "--private", "--home", home]
    second = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=20, env=environment()
    )
    assert second.returncode == 78
    assert "already runs in this home" in second.stderr
    assert "Traceback" not in second.stderr
    assert await run(process, "echo still") is not None


async def test_a_private_agent_leaves_when_nobody_needs_it(tmp_path: Path) -> None:
    with agent_process(tmp_path / "h", "--private", "--idle", "1") as process:
        assert process.process is not None
        assert await asyncio.to_thread(process.process.wait, 10) == 0
        assert not process.home.agent_socket.exists()


async def test_unknown_jobs_and_runs_are_missing(process: AgentProcess) -> None:
    key = JobKey(RunId("0" * 26), 0, 1)
    async with process.agent() as agent:
        with pytest.raises(Missing):
            await Reading(key).read(agent)
        with pytest.raises(Missing):
            await agent.stop(key.run_id, None, False, "")


async def test_a_job_that_an_agent_drives_to_itself_runs_to_its_end(process: AgentProcess) -> None:
    async with process.agent() as agent:
        first = replace(spec_of(code(process), "echo made > out/x"), artifacts=("out",))
        second = spec_of(first.code_digest, "cat out/x")
        second = replace(second, key=replace(first.key, job=1))
        record = RunRecord(
            first.key.run_id, first.run_name, "train", "ana@laptop", first.submitted_at, 2
        )
        jobs = [DrivenJob(first), DrivenJob(second, after=(0,))]
        await agent.drive(record, jobs, 1)

        async def done() -> bool:
            (listed,) = (await agent.list_runs([first.key.run_id])).runs
            assert listed.job_count == 2
            return [job.state.state for job in listed.jobs] == [JobState.DONE] * 2

        await eventually_async(done, 20)
        reading = await Reading(second.key).read(agent)
        assert reading.stdout == b"made\n"


async def test_code_that_did_not_arrive_is_refused(process: AgentProcess) -> None:
    async with process.agent() as agent:
        with pytest.raises((Refused, Unreachable)):
            await award(agent, spec_of(Digest(b"n" * 32), "true"))
