"""What is edited goes to every job that runs, and nothing that goes wrong with it ends the run."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dstack_cli.code import Code
from dstack_cli.reloading import Reloading, following_edits
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_scheduler.job import JobKey, JobState, Revision, StateChange
from dstack_scheduler.progress import Awarded
from support.eventually import eventually_async
from support.fake_agent import FakeMachine
from support.submissions import Remembering

RUN = RunId("0" * 26)
BEGAN = Digest(b"0" * 32)
AT = datetime(2026, 11, 26, tzinfo=UTC)


@dataclass
class Far:
    """The agent of all jobs, and whoever finds it."""

    local: bool = False
    sent: list[Digest] = field(default_factory=list[Digest])
    laid: list[tuple[int, int, Digest]] = field(default_factory=list[tuple[int, int, Digest]])
    trouble: MeshError | None = None

    async def find(self, peer_id: PeerId) -> "Far":
        return self

    async def send_tree(self, digest: Digest) -> int:
        self.sent.append(digest)
        return 1

    async def reload(self, key: JobKey, code: Digest) -> Replaced:
        if self.trouble is not None:
            raise self.trouble
        self.laid.append((key.job, key.attempt, code))
        return Replaced(made=2, removed=1)


@dataclass
class Desk:
    """A folder that a person edits, and what she is told."""

    far: Far
    watcher: Remembering = field(default_factory=Remembering)
    said: list[str] = field(default_factory=list[str])
    now: Digest = BEGAN
    changing: tuple[str, ...] = ()
    trouble: Exception | None = None
    looks: int = 0

    def look(self) -> Code:
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        return Code(self.now, Revision(), "", 1, 1, changed=self.changing)

    async def looked(self) -> None:
        """Until another look was taken from its beginning to its end."""
        before = self.looks
        await eventually_async(lambda: _is(self.looks >= before + 2), within=10)


async def _is(holds: bool) -> bool:
    return holds


@asynccontextmanager
async def editing(desk: Desk) -> AsyncGenerator[Reloading]:
    far: Any = desk.far
    reloading = Reloading(
        far, desk.watcher, desk.look, BEGAN, ["prepare", "train"], desk.said.append, 0.01
    )
    async with following_edits(reloading):
        yield reloading


async def begins(reloading: Reloading, job: int, attempt: int = 1) -> JobKey:
    card = FakeMachine("ws").card
    await reloading.saw(Awarded(job, attempt, card, False, (), ""))
    key = JobKey(RUN, job, attempt)
    await reloading.saw(StateChange(key, JobState.RUNNING, AT))
    return key


async def test_an_edit_goes_to_every_job_that_runs_once() -> None:
    desk = Desk(Far())
    async with editing(desk) as reloading:
        first, _ = await begins(reloading, 0), await begins(reloading, 1)
        await desk.looked()
        assert desk.far.laid == []
        desk.now = Digest(b"1" * 32)
        await desk.looked()
        assert desk.far.laid == [(0, 1, desk.now), (1, 1, desk.now)]
        await reloading.saw(StateChange(first, JobState.DONE, AT))
        desk.now = Digest(b"2" * 32)
        await desk.looked()
    assert desk.far.laid[2:] == [(1, 1, desk.now)]
    assert desk.said[:2] == [
        f"reloaded {name}: 2 files, 1 removed" for name in ("prepare", "train")
    ]
    assert len(desk.watcher.seen) == 5


async def test_another_attempt_gets_what_is_newest() -> None:
    desk = Desk(Far(local=True))
    async with editing(desk) as reloading:
        key = await begins(reloading, 0)
        desk.now = Digest(b"1" * 32)
        await desk.looked()
        await reloading.saw(StateChange(key, JobState.FAILED, AT))
        await begins(reloading, 0, attempt=2)
        await desk.looked()
    assert desk.far.laid == [(0, 1, desk.now), (0, 2, desk.now)]
    assert desk.far.sent == []  # the agent of this home has our store


async def test_trouble_is_said_once_and_ends_nothing() -> None:
    desk = Desk(Far(trouble=Refused("A file and a folder clash.")))
    async with editing(desk) as reloading:
        await begins(reloading, 0)
        desk.now = Digest(b"1" * 32)
        await desk.looked()
        await desk.looked()
        desk.trouble = PermissionError(13, "Permission denied", "secret")
        await desk.looked()
        desk.trouble, desk.far.trouble = None, None
        await desk.looked()
    assert desk.said == [
        "not reloaded: A file and a folder clash.",
        "not reloaded: [Errno 13] Permission denied: 'secret'",
        "reloaded prepare: 2 files, 1 removed",
    ]


async def test_what_is_being_written_waits_for_the_next_look() -> None:
    desk = Desk(Far(), changing=("page",))
    async with editing(desk) as reloading:
        await begins(reloading, 0)
        desk.now = Digest(b"1" * 32)
        await desk.looked()
        assert desk.far.laid == []
        desk.changing = ()
        await desk.looked()
    assert desk.far.laid == [(0, 1, desk.now)]


async def test_where_nothing_runs_nobody_looks() -> None:
    desk = Desk(Far())
    async with editing(desk):
        await asyncio.sleep(0.1)
    assert desk.looks == 0
