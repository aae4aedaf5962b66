"""The daemon as a process: jobs through its socket, and what its death does to them: nothing."""

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import MeshError, Missing, Refused, Unreachable
from dstack_mesh.ids import Digest, RunId, RunName
from dstack_scheduler.agent_port import AttachEvent, Attachment, DrivenJob, Question
from dstack_scheduler.job import (
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    Input,
    JobKey,
    JobSpec,
    JobState,
    LogFrame,
    LogStream,
    RunRecord,
    StateChange,
    TagRecord,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import RUNNER, AgentProcess, agent_process, environment
from support.eventually import eventually, eventually_async


@pytest.fixture
def process(tmp_path: Path) -> Iterator[AgentProcess]:
    with agent_process(tmp_path / "h") as started:
        yield started


def code(process: AgentProcess, **files: str) -> Digest:
    """A tree with these files in the agent's store."""
    folder = process.home.root / f"code-{secrets.token_hex(4)}"
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    store = ChunkStore(process.home.chunks)
    try:
        return save_tree(store, folder).digest
    finally:
        store.close()


def spec_of(digest: Digest, *commands: str) -> JobSpec:
    return JobSpec(
        key=JobKey(RunId(secrets.token_hex(13)), 0, 1),
        run_name=RunName("calm-ibex-1"),
        workflow="train",
        provider="bash",
        commands=commands,
        needs=Needs(),
        code_digest=digest,
        submitted_at=datetime.now(UTC),
        stop_grace_seconds=2.0,
        owner="ana@laptop",
    )


async def award(agent: GrpcAgent, spec: JobSpec, secrets: dict[str, str] | None = None) -> JobKey:
    """Takes the job through the auction's calls."""
    question = Question(spec.key, spec.run_name, spec.needs, spec.executor, spec.python)
    hold = await agent.reserve(question, 1)
    await agent.commit(hold.hold_id, 1, spec, secrets or {})
    return spec.key


class Reading:
    """What one or more attachments gave of one job, checked to have no hole and nothing twice."""

    def __init__(self, key: JobKey) -> None:
        self.key = key
        self.bytes = {LogStream.STDOUT: b"", LogStream.STDERR: b""}
        self.states: list[StateChange] = []
        self.artifacts: list[ArtifactSaved] = []
        self.fin: Fin | None = None
        self.order: list[str] = []

    def take(self, event: AttachEvent) -> bool:
        """Whether that was the last one."""
        match event:
            case LogFrame(_, stream, offset, data):
                assert offset == len(self.bytes[stream])
                self.bytes[stream] += data
                self.order.append(stream.value)
            case StateChange():
                if event not in self.states:
                    self.states.append(event)
                self.order.append(event.state.value)
            case ArtifactSaved():
                self.artifacts.append(event)
            case Gap():
                raise AssertionError(event)
            case Fin():
                self.fin = event
            case EndOfLog():
                pass
        return isinstance(event, Fin | EndOfLog)

    async def read(self, agent: GrpcAgent, until_now: bool = False) -> "Reading":
        async with agent.attach() as attachment:
            await self.follow(attachment, until_now)
            async for event in attachment.events():
                if self.take(event):
                    break
        return self

    async def follow(self, attachment: Attachment, until_now: bool = False) -> None:
        await attachment.follow(self.key, len(self.stdout), len(self.stderr), until_now)

    @property
    def stdout(self) -> bytes:
        return self.bytes[LogStream.STDOUT]

    @property
    def stderr(self) -> bytes:
        return self.bytes[LogStream.STDERR]

    @property
    def ended(self) -> StateChange:
        assert self.fin is not None
        return self.fin.state

    @property
    def words(self) -> list[str]:
        """The states in order, each once."""
        return list(dict.fromkeys(state.state.value for state in self.states))

    def check(self) -> None:
        """The last word fits what was read."""
        assert self.fin is not None
        assert self.fin.stdout_bytes == len(self.stdout)
        assert self.fin.stderr_bytes == len(self.stderr)
        assert self.fin.stdout_digest == digest_of(self.stdout)
        assert self.fin.stderr_digest == digest_of(self.stderr)


async def run(process: AgentProcess, *commands: str) -> Reading:
    async with process.agent() as agent:
        key = await award(agent, spec_of(code(process), *commands))
        reading = await Reading(key).read(agent)
    reading.check()
    return reading


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
    for file in process.home.root.rglob("*"):
        if file.is_file():
            assert value.encode() not in file.read_bytes(), file


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


async def test_a_tag_is_listed_and_survives_a_restart(process: AgentProcess) -> None:
    tag = TagRecord("lab/x", "v1", RunId("0" * 26), "calm-ibex-1", datetime.now(UTC))
    async with process.agent() as agent:
        await agent.tag(tag)
    process.kill()
    process.start()
    async with process.agent() as agent:
        assert (await agent.list_runs([])).tags == (tag,)


async def test_code_that_did_not_arrive_is_refused(process: AgentProcess) -> None:
    async with process.agent() as agent:
        with pytest.raises((Refused, Unreachable)):
            await award(agent, spec_of(Digest(b"n" * 32), "true"))
