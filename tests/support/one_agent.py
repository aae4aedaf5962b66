"""One agent as a process: a job awarded to it, and what is read of it."""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.ids import Digest, RunId, RunName
from dstack_scheduler.agent_port import AttachEvent, Attachment, Question
from dstack_scheduler.job import (
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    JobKey,
    JobSpec,
    LogFrame,
    LogStream,
    StateChange,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import AgentProcess, agent_process


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
    """Awards the commands and reads to the end, which is checked."""
    async with process.agent() as agent:
        key = await award(agent, spec_of(code(process), *commands))
        reading = await Reading(key).read(agent)
    reading.check()
    return reading
