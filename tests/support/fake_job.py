"""A job of an agent in memory: its commands are played, not run."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from blake3 import blake3

from dstack_mesh.ids import Digest
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    Gap,
    JobKey,
    JobSpec,
    JobState,
    LogFrame,
    LogStream,
    StateChange,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass(slots=True)
class FakeJob:
    """A job that an agent has."""

    spec: JobSpec
    gpu_uuids: tuple[str, ...]
    states: list[StateChange] = field(default_factory=list[StateChange])
    artifacts: list[ArtifactSaved] = field(default_factory=list[ArtifactSaved])
    streams: dict[LogStream, bytearray] = field(
        default_factory=lambda: {stream: bytearray() for stream in LogStream}
    )
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def key(self) -> JobKey:
        return self.spec.key

    @property
    def state(self) -> StateChange:
        return self.states[-1]

    @property
    def fin(self) -> Fin | None:
        if not self.state.state.ended:
            return None
        out, err = (bytes(self.streams[stream]) for stream in LogStream)
        return Fin(
            self.key,
            self.state,
            len(out),
            Digest(blake3(out).digest()),
            len(err),
            Digest(blake3(err).digest()),
            tuple(self.artifacts),
        )

    def enter(self, state: JobState, exit_code: int | None = None, cause: str = "") -> None:
        """A state begins."""
        self.states.append(StateChange(self.key, state, NOW, cause, exit_code=exit_code))

    def save(self, path: str, digest: Digest, size_bytes: int = 1) -> None:
        """An artifact is kept for good."""
        self.artifacts.append(ArtifactSaved(self.key, path, digest, 1, size_bytes, True))

    async def write(self, data: bytes, stream: LogStream = LogStream.STDOUT) -> None:
        """The job writes."""
        self.streams[stream] += data
        await self.poke()

    async def end(self, state: JobState = JobState.DONE, exit_code: int | None = 0) -> None:
        """The job ends."""
        self.enter(state, exit_code)
        await self.poke()

    async def poke(self) -> None:
        """Wakes whoever follows."""
        async with self.changed:
            self.changed.notify_all()


def play_commands(job: FakeJob) -> None:
    """Plays `echo TEXT`, `exit N` and `sleep`; a job whose commands end is done."""
    job.enter(JobState.RUNNING)
    for command in job.spec.commands:
        word, _, rest = command.partition(" ")
        if word == "echo":
            job.streams[LogStream.STDOUT] += rest.encode() + b"\n"
        elif word == "sleep":
            return
        elif word == "exit":
            code = int(rest)
            job.enter(JobState.FAILED if code else JobState.DONE, code, f"exit code {code}")
            return
    for path in job.spec.artifacts:
        job.save(path, Digest(blake3(f"{job.key}{path}".encode()).digest()))
    job.enter(JobState.DONE, 0)


def play_nothing(job: FakeJob) -> None:
    """The job runs until the test ends it."""
    job.enter(JobState.RUNNING)


def frames(job: FakeJob, offsets: dict[LogStream, int]) -> list[LogFrame | Gap]:
    """What was written since `offsets`, which then says so."""
    fresh: list[LogFrame | Gap] = []
    for stream, written in job.streams.items():
        while offsets[stream] < len(written):
            at = offsets[stream]
            data = bytes(written[at : at + 64 * 1024])
            offsets[stream] = at + len(data)
            fresh.append(LogFrame(job.key, stream, at, data, NOW))
    return fresh


def news(job: FakeJob, offsets: dict[LogStream, int], told: int) -> bool:
    """Whether anything happened since `offsets` and the first `told` states."""
    unread = any(offsets[stream] < len(written) for stream, written in job.streams.items())
    return unread or len(job.states) > told
