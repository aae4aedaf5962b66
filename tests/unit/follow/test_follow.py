"""A follower and an agent in memory whose connection breaks wherever it hurts."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Broken, Busy, MeshError, Missing, Unreachable
from dstack_mesh.ids import Digest
from dstack_scheduler.agent_port import AttachEvent, Attachment
from dstack_scheduler.follow import Follower, Start
from dstack_scheduler.job import (
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    JobState,
    LogFrame,
    LogStream,
    StateChange,
)
from dstack_scheduler.progress import Unheard
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeAttachment, FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import FakeJob
from support.fake_store import FakeStore
from support.submissions import CODE, Remembering, planned, submission

BEGINNING = Start()


def job_on(machine: FakeMachine) -> FakeJob:
    """A job that the machine runs."""
    spec = submission(planned(0, "sleep")).jobs[0].spec
    job = FakeJob(spec, ())
    job.enter(JobState.RUNNING)
    machine.jobs[spec.key] = job
    return job


def follower(
    agent: FakeAgent,
    job: FakeJob,
    watcher: Remembering,
    start: Start = BEGINNING,
    patience: float = 3.0,
) -> Follower:
    directory = FakeDirectory(agent)
    chance = random.Random(3).random
    return Follower(job.key, agent, directory, watcher.saw, chance, start, patience)


class Cut(FakeAgent):
    """An agent whose connections break after so many events, one number for each connection."""

    def __init__(self, machine: FakeMachine, cuts: list[int]) -> None:
        super().__init__(machine, FakeStore(), local=False)
        self._cuts = cuts

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[Attachment]:
        self.machine.cut_after = self._cuts.pop(0) if self._cuts else None
        async with super().attach() as attachment:
            yield attachment


@settings(max_examples=25, deadline=None)
@given(
    st.binary(max_size=300),
    st.binary(max_size=100),
    st.lists(st.integers(0, 3), max_size=4),
)
def test_wherever_the_connection_breaks_every_byte_arrives_once(
    out: bytes, err: bytes, cuts: list[int]
) -> None:
    async def story() -> Remembering:
        machine, watcher = FakeMachine("there"), Remembering()
        job = job_on(machine)
        cut = Cut(machine, cuts)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(follower(cut, job, watcher).run())
            for start in range(0, len(out), 40):
                await job.write(out[start : start + 40])
                await asyncio.sleep(0)
            await job.write(err, LogStream.STDERR)
            await job.end()
        assert isinstance(reading.result(), Fin)
        return watcher

    watcher = asyncio.run(story())

    frames = watcher.of(LogFrame)
    streams = {
        stream: b"".join(each.data for each in frames if each.stream is stream)
        for stream in LogStream
    }
    assert streams == {LogStream.STDOUT: out, LogStream.STDERR: err}
    assert not watcher.of(Gap)
    assert [change.state for change in watcher.of(StateChange)] == [
        JobState.RUNNING,
        JobState.DONE,
    ]
    assert len(watcher.of(Fin)) == 1


async def test_an_agent_that_is_silent_is_said_to_be_unheard_once_and_heard_again() -> None:
    machine, watcher = FakeMachine("there"), Remembering()
    job = job_on(machine)
    agent = machine.seen_by(FakeStore())
    machine.up = False
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(follower(agent, job, watcher, patience=0.2).run())

        async def unheard() -> list[Unheard]:
            return watcher.of(Unheard)

        await eventually_async(unheard, within=5)
        tries = machine.calls.count("attach")

        async def tried_on() -> bool:
            return machine.calls.count("attach") > tries + 1

        await eventually_async(tried_on, within=5)
        await job.end()
        machine.up = True
    assert len(watcher.of(Unheard)) == 1
    assert len(watcher.of(Fin)) == 1


async def test_an_agent_that_moved_is_found_again() -> None:
    before, after, watcher = FakeMachine("there"), FakeMachine("there"), Remembering()
    job = job_on(before)
    after.jobs = before.jobs
    before.up = False
    directory = FakeDirectory(after.seen_by(FakeStore()))
    old = before.seen_by(FakeStore())
    await job.end()

    async with asyncio.timeout(5):
        reading = Follower(job.key, old, directory, watcher.saw, random.random)
        await reading.run()

    assert reading.agent.card.peer_id == before.card.peer_id
    assert after.calls == ["attach"]


async def test_a_job_that_the_agent_does_not_know_is_missing() -> None:
    machine = FakeMachine("there")
    other = job_on(FakeMachine("other"))

    with pytest.raises(Missing):
        await follower(machine.seen_by(FakeStore()), other, Remembering()).run()


async def test_reading_until_now_ends_while_the_job_goes_on() -> None:
    machine, watcher = FakeMachine("there"), Remembering()
    job = job_on(machine)
    await job.write(b"0123456789")

    last = await follower(
        machine.seen_by(FakeStore()), job, watcher, Start(stdout_offset=4, until_now=True)
    ).run()

    assert isinstance(last, EndOfLog)
    assert watcher.log == b"456789"


class Skipping(FakeAgent):
    """An agent that never sends the first three bytes and does not say so."""

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[Attachment]:
        yield SkippingAttachment(self.machine, FakeStore())


class SkippingAttachment(FakeAttachment):
    async def events(self) -> AsyncGenerator[AttachEvent, None]:
        async for event in super().events():
            if isinstance(event, LogFrame) and event.offset_bytes < 3:
                yield LogFrame(event.key, event.stream, 3, event.data[3:], event.at)
            else:
                yield event


async def test_of_each_artifact_the_newest_version_is_remembered_and_told_once() -> None:
    machine, watcher = FakeMachine("there"), Remembering()
    job = job_on(machine)
    await job.end()
    old, new = (ArtifactSaved(job.key, "out", Digest(c * 32), 1, 1, False) for c in (b"o", b"n"))

    class Versions(FakeAttachment):
        async def events(self) -> AsyncGenerator[AttachEvent, None]:
            for version in (old, old, new, new, old):
                yield version
            async for event in super().events():
                yield event

    class Saving(FakeAgent):
        @asynccontextmanager
        async def attach(self) -> AsyncGenerator[Attachment]:
            yield Versions(self.machine, FakeStore())

    async with asyncio.timeout(5):
        await follower(Saving(machine, FakeStore(), False), job, watcher).run()

    assert watcher.of(ArtifactSaved) == [old, new, old], "its bytes may be those of before again"


class Troubled(FakeAgent):
    """An agent that has errors of its own before it answers."""

    def __init__(self, machine: FakeMachine, errors: list[MeshError]) -> None:
        super().__init__(machine, FakeStore(), local=False)
        self._errors = errors

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[Attachment]:
        if self._errors:
            raise self._errors.pop(0)
        async with super().attach() as attachment:
            yield attachment


async def test_an_agent_that_is_busy_or_broken_now_is_followed_later() -> None:
    machine, watcher = FakeMachine("there"), Remembering()
    job = job_on(machine)
    await job.end()
    errors: list[MeshError] = [Busy("It is called too often.", retry_seconds=0.3), Broken("A bug.")]
    began = asyncio.get_running_loop().time()

    async with asyncio.timeout(10):
        await follower(Troubled(machine, errors), job, watcher).run()

    assert asyncio.get_running_loop().time() - began >= 0.3
    assert len(watcher.of(Fin)) == 1


async def test_a_hole_is_read_again_and_then_said() -> None:
    machine, watcher = FakeMachine("there"), Remembering()
    job = job_on(machine)
    await job.write(b"0123456789")
    await job.end()

    async with asyncio.timeout(10):
        skipping = Skipping(machine, FakeStore(), False)
        await follower(skipping, job, watcher).run()

    assert [(gap.from_bytes, gap.to_bytes) for gap in watcher.of(Gap)] == [(0, 3)]
    assert watcher.log == b"3456789"


async def test_a_broken_connection_is_no_error_of_the_job() -> None:
    machine, watcher = FakeMachine("there"), Remembering()
    job = job_on(machine)
    job.save("model", Digest(CODE), 5)
    await job.end()
    cut = Cut(machine, [0, 0, 0])

    last = await follower(cut, job, watcher).run()

    assert isinstance(last, Fin)
    assert last.artifacts[0].path == "model"
    assert machine.calls == ["attach"] * 4


def test_the_connection_of_these_tests_can_break() -> None:
    async def story() -> None:
        machine = FakeMachine("there")
        job = job_on(machine)
        machine.cut_after = 0
        async with machine.seen_by(FakeStore()).attach() as attachment:
            await attachment.follow(job.key)
            async for _ in attachment.events():
                raise AssertionError("an event got through")

    with pytest.raises(Unreachable):
        asyncio.run(story())
