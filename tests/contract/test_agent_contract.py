"""What every `Agent` promises to drivers: kept by the fake of the tests and by a real daemon."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from blake3 import blake3

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Conflict, MeshError, Missing
from dstack_mesh.ids import Digest, HoldId, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.agent_port import Agent, AttachEvent, Hold, Question
from dstack_scheduler.job import (
    EndOfLog,
    Fin,
    JobKey,
    JobSpec,
    JobState,
    LogFrame,
    LogStream,
    Revision,
    StateChange,
    TagRecord,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Never, Now
from support.agent_process import AgentProcess, agent_process
from support.eventually import eventually_async
from support.fake_agent import FakeMachine
from support.fake_store import FakeStore

AT = datetime(2026, 11, 20, tzinfo=UTC)
NUMBERS = count(1)
PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Bench:
    """An agent to try and code that it can run."""

    agent: Agent
    code: Digest

    def spec(self, *commands: str, run: int | None = None, job: int = 0) -> JobSpec:
        """A job of a new run."""
        number = next(NUMBERS) if run is None else run
        return JobSpec(
            key=JobKey(RunId(f"{number:026d}"), job),
            run_name=RunName(f"calm-ibex-{number}"),
            workflow="try",
            provider="bash",
            commands=commands,
            needs=Needs(),
            code_digest=self.code,
            submitted_at=AT,
            owner="ana@laptop",
            revision=Revision(repo="github.com/lab/digits"),
        )

    async def award(self, spec: JobSpec, epoch: int = 1) -> Hold:
        """Runs a job: reserve, code, commit."""
        hold = await self.agent.reserve(question(spec), epoch)
        await self.agent.send_tree(self.code)
        await self.agent.commit(hold.hold_id, epoch, spec, {})
        return hold

    async def read(
        self, key: JobKey, stdout_offset: int = 0, until_now: bool = False
    ) -> list[AttachEvent]:
        """All events until the last one."""
        seen: list[AttachEvent] = []
        async with asyncio.timeout(PATIENCE_SECONDS), self.agent.attach() as attachment:
            await attachment.follow(key, stdout_offset, until_now=until_now)
            async with aclosing(attachment.events()) as events:
                async for event in events:
                    seen.append(event)
                    if isinstance(event, Fin | EndOfLog):
                        return seen
        raise AssertionError(f"the stream ended without a last word: {seen}")


def question(spec: JobSpec, gpus: int = 0) -> Question:
    return Question(spec.key, spec.run_name, Needs(gpus=gpus), ExecutorKind.PROCESS)


def log(events: list[AttachEvent], stream: LogStream = LogStream.STDOUT) -> bytes:
    frames = [each for each in events if isinstance(each, LogFrame) and each.stream is stream]
    return b"".join(frame.data for frame in frames)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with agent_process(tmp_path_factory.mktemp("daemon")) as process:
        yield process


@pytest.fixture(params=["fake", "real"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "fake":
        code = Digest(b"c" * 32)
        yield Bench(FakeMachine("there").seen_by(FakeStore(code)), code)
        return
    daemon: AgentProcess = request.getfixturevalue("daemon")
    async with daemon.agent() as agent:
        yield Bench(agent, await asyncio.to_thread(save_code, daemon, tmp_path))


def save_code(daemon: AgentProcess, folder: Path) -> Digest:
    """A folder with one file, in the store of the daemon's home."""
    (folder / "hello.txt").write_text("hello")
    store = ChunkStore(daemon.home.chunks)
    try:
        return save_tree(store, folder).digest
    finally:
        store.close()


async def test_an_ask_for_nothing_special_is_answered_with_now(bench: Bench) -> None:
    bid = await bench.agent.ask(question(bench.spec()))

    assert isinstance(bid.verdict, Now)


async def test_an_ask_that_cannot_be_is_answered_with_never_and_a_reason(bench: Bench) -> None:
    bid = await bench.agent.ask(question(bench.spec(), gpus=64))

    assert isinstance(bid.verdict, Never)
    assert bid.verdict.reasons[0].code == "gpu-too-few"
    assert bid.verdict.reasons[0].message


async def test_a_job_runs_and_its_last_word_has_its_bytes(bench: Bench) -> None:
    spec = bench.spec("echo one", "echo two")
    await bench.award(spec)

    events = await bench.read(spec.key)

    fin = events[-1]
    assert isinstance(fin, Fin)
    assert (fin.state.state, fin.state.exit_code) == (JobState.DONE, 0)
    assert log(events) == b"one\ntwo\n"
    assert fin.stdout_bytes == 8
    assert fin.stdout_digest == blake3(b"one\ntwo\n").digest()
    assert fin.stderr_bytes == 0
    assert fin.stderr_digest == blake3(b"").digest()


async def test_a_follow_is_answered_at_once_with_a_state(bench: Bench) -> None:
    spec = bench.spec("sleep 60")
    await bench.award(spec)

    async with bench.agent.attach() as attachment:
        await attachment.follow(spec.key)
        async with asyncio.timeout(1), aclosing(attachment.events()) as events:
            first = await anext(events)

    assert isinstance(first, StateChange)
    await bench.agent.stop(spec.key.run_id, None, True, "enough")


async def test_the_exit_code_of_a_job_is_told_unchanged(bench: Bench) -> None:
    spec = bench.spec("exit 3")
    await bench.award(spec)

    fin = (await bench.read(spec.key))[-1]

    assert isinstance(fin, Fin)
    assert (fin.state.state, fin.state.exit_code) == (JobState.FAILED, 3)


async def test_a_reader_gets_the_log_from_the_byte_that_it_names(bench: Bench) -> None:
    spec = bench.spec("echo 0123456789")
    await bench.award(spec)
    await bench.read(spec.key)

    events = await bench.read(spec.key, stdout_offset=4)

    frames = [event for event in events if isinstance(event, LogFrame)]
    assert frames[0].offset_bytes == 4
    assert log(events) == b"456789\n"


async def test_what_a_job_kept_is_in_its_last_word(bench: Bench) -> None:
    spec = replace(bench.spec("mkdir -p out && date > out/now"), artifacts=("out",))
    await bench.award(spec)

    fin = (await bench.read(spec.key))[-1]

    assert isinstance(fin, Fin)
    (artifact,) = fin.artifacts
    assert (artifact.path, artifact.complete, artifact.files) == ("out", True, 1)
    await bench.agent.fetch_tree(artifact.digest)


async def test_attempt_zero_is_the_newest(bench: Bench) -> None:
    spec = bench.spec("echo first")
    await bench.award(spec)
    await bench.read(spec.key)
    second = replace(spec, key=replace(spec.key, attempt=2), commands=("echo second",))
    await bench.award(second)

    events = await bench.read(replace(spec.key, attempt=0))

    assert log(events) == b"second\n"
    assert {event.key.attempt for event in events} == {2}


async def test_reading_until_now_ends_while_the_job_runs(bench: Bench) -> None:
    spec = bench.spec("echo begun", "sleep 60")
    await bench.award(spec)

    async def begun() -> list[AttachEvent]:
        seen = await bench.read(spec.key, until_now=True)
        return seen if log(seen) else []

    events = await eventually_async(begun, within=PATIENCE_SECONDS)

    assert log(events) == b"begun\n"
    assert isinstance(events[-1], EndOfLog)
    await bench.agent.stop(spec.key.run_id, None, True, "enough")


async def test_a_stop_ends_the_job_and_says_why(bench: Bench) -> None:
    spec = bench.spec("sleep 60")
    await bench.award(spec)

    assert await bench.agent.stop(spec.key.run_id, 0, False, "stopped by ana") == 1
    fin = (await bench.read(spec.key))[-1]

    assert isinstance(fin, Fin)
    assert fin.state.state is JobState.STOPPED
    assert "ana" in fin.state.cause


async def test_an_abort_ends_the_job_too(bench: Bench) -> None:
    spec = bench.spec("sleep 60")
    await bench.award(spec)

    await bench.agent.stop(spec.key.run_id, None, True, "enough")
    fin = (await bench.read(spec.key))[-1]

    assert isinstance(fin, Fin)
    assert fin.state.state is JobState.ABORTED


async def test_stopping_what_is_not_there_is_missing(bench: Bench) -> None:
    with pytest.raises(Missing):
        await bench.agent.stop(bench.spec().key.run_id, None, False, "")


async def test_following_what_is_not_there_is_missing(bench: Bench) -> None:
    with pytest.raises(Missing):
        await bench.read(bench.spec().key)


async def test_reserving_again_renews_the_same_hold(bench: Bench) -> None:
    asked = question(bench.spec())

    first = await bench.agent.reserve(asked, 1)
    second = await bench.agent.reserve(asked, 1)

    assert first.hold_id == second.hold_id
    assert second.expires_in_seconds > 0
    await bench.agent.release(first.hold_id)


async def test_a_hold_that_was_given_back_cannot_be_committed(bench: Bench) -> None:
    spec = bench.spec("echo never")
    hold = await bench.agent.reserve(question(spec), 1)
    await bench.agent.send_tree(bench.code)
    await bench.agent.release(hold.hold_id)

    with pytest.raises(Missing):
        await bench.agent.commit(hold.hold_id, 1, spec, {})


async def test_giving_back_what_nobody_holds_is_fine(bench: Bench) -> None:
    await bench.agent.release(HoldId("nobody-holds-this"))


async def test_committing_twice_runs_the_job_once(bench: Bench) -> None:
    spec = bench.spec("echo once")
    hold = await bench.award(spec)
    await bench.agent.commit(hold.hold_id, 1, spec, {})

    assert log(await bench.read(spec.key)) == b"once\n"


async def test_a_driver_that_was_replaced_is_refused(bench: Bench) -> None:
    spec = bench.spec("echo a")
    hold = await bench.agent.reserve(question(spec), 5)

    with pytest.raises(Conflict) as reserving:
        await bench.agent.reserve(question(spec), 4)
    with pytest.raises(Conflict) as committing:
        await bench.agent.commit(hold.hold_id, 4, spec, {})

    assert {reserving.value.code, committing.value.code} == {"epoch"}
    await bench.agent.release(hold.hold_id)


async def test_a_run_is_listed_with_its_jobs_and_how_they_ended(bench: Bench) -> None:
    spec = bench.spec("echo a")
    await bench.award(spec)
    await bench.read(spec.key)

    (run,) = (await bench.agent.list_runs([spec.key.run_id])).runs

    (job,) = run.jobs
    assert (run.run_name, run.owner) == (spec.run_name, "ana@laptop")
    assert run.revision.repo == "github.com/lab/digits"
    assert (job.key, job.workflow, job.state.state) == (spec.key, "try", JobState.DONE)
    assert job.agent_id is not None


async def test_of_statements_about_a_tag_the_newest_counts(bench: Bench) -> None:
    spec = bench.spec("echo a")
    await bench.award(spec)
    await bench.read(spec.key)
    name = f"v{spec.key.run_id[-6:]}"
    newest = TagRecord(
        "github.com/lab/digits", name, spec.key.run_id, spec.run_name, AT.replace(hour=2)
    )
    older = replace(newest, run_id=None, at=AT.replace(hour=1))

    await bench.agent.tag(newest)
    await bench.agent.tag(older)

    tags = [tag for tag in (await bench.agent.list_runs()).tags if tag.tag == name]
    assert tags == [newest]


async def test_a_tree_that_nobody_has_is_missing(bench: Bench) -> None:
    with pytest.raises(MeshError):
        await bench.agent.fetch_tree(Digest(b"?" * 32))
