"""A tree that a job made is the same on the laptop, as an input of another agent, and kept there.

`DSTACK_CHAOS_ROUNDS` is how many trees are made.
"""

import secrets
import shlex
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.transfer import TransferClient
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import Fin, Input, JobKey, JobSpec
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.agent import GrpcAgent
from support import random_trees
from support.agent_process import UNKNOWN, AgentProcess, agent_process
from support.random_trees import grow, picture, room
from support.rounds import rounds, seeded

SLACK_BYTES = 1 << 20
"""What the ends of a tree's holes may take where they become zeros."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    """The laptop's."""
    store = ChunkStore(tmp_path / "laptop")
    yield store
    store.close()


@dataclass(frozen=True)
class Reached:
    """An agent as the laptop has it."""

    agent: GrpcAgent
    files: TransferClient
    store: ChunkStore

    async def run(self, command: str, *inputs: Input) -> Fin:
        """Runs a job that keeps "out"."""
        spec = JobSpec(
            key=JobKey(RunId(secrets.token_hex(13)), 0, 1),
            run_name=RunName("calm-ibex-1"),
            workflow="train",
            provider="bash",
            commands=(command,),
            needs=Needs(),
            code_digest=self.store.put_manifest(Manifest(()).encode()),
            submitted_at=datetime.now(UTC),
            artifacts=("out",),
            inputs=inputs,
        )
        question = Question(spec.key, spec.run_name, spec.needs, spec.executor, spec.python)
        hold = await self.agent.reserve(question, 1)
        await self.files.send_tree(spec.code_digest)
        await self.agent.commit(hold.hold_id, 1, spec, {})
        async with self.agent.attach() as attachment:
            await attachment.follow(spec.key)
            async for event in attachment.events():
                if isinstance(event, Fin):
                    return event
        raise AssertionError("there was no last word")


@asynccontextmanager
async def reached(process: AgentProcess, store: ChunkStore) -> AsyncGenerator[Reached]:
    channels = Channels(process.home)
    try:
        channel = channels.to_local(process.home.agent_socket)
        agent = GrpcAgent(channel, UNKNOWN, True, store)
        yield Reached(agent, TransferClient(channel, store), store)
    finally:
        await channels.close()


async def test_trees_are_the_same_from_an_agent_to_the_laptop_to_an_agent(
    tmp_path: Path, store: ChunkStore
) -> None:
    dice = seeded("trees")
    with agent_process(tmp_path / "1") as first, agent_process(tmp_path / "2") as second:
        async with reached(first, store) as one, reached(second, store) as two:
            for number in range(rounds(6)):
                seed = dice.getrandbits(32)
                print(f"tree {number}: {seed}")
                folder = tmp_path / f"{number}"
                expected = folder / "expected"
                expected.mkdir(parents=True)
                grow(expected, seed)
                await _round(one, two, seed, folder)
                assert picture(folder / "laptop") == picture(expected)
                assert room(folder / "laptop") <= room(expected) + SLACK_BYTES


async def _round(one: Reached, two: Reached, seed: int, folder: Path) -> None:
    script = shlex.join((sys.executable, random_trees.__file__, "out", str(seed)))
    made = await one.run(script)
    [kept] = made.artifacts
    assert (made.state.exit_code, made.state.cause, kept.complete) == (0, "", True)
    fetched = await one.files.fetch_into(kept.digest, folder / "laptop")
    assert fetched.left_out == ()
    saved = save_tree(two.store, folder / "laptop")
    assert (saved.digest, saved.skipped) == (kept.digest, ())
    await two.files.send_tree(saved.digest)
    taken = await two.run("cp -a --sparse=always in/. out/", Input(saved.digest, "in"))
    [again] = taken.artifacts
    assert (taken.state.exit_code, again.digest) == (0, kept.digest)


async def test_what_cannot_be_kept_is_said_once_with_names_and_counts(
    tmp_path: Path, store: ChunkStore
) -> None:
    command = r"""
        cd out && touch fine $'bad\xff' && ln -s /etc/passwd far &&
        for n in 1 2 3 4 5 6 7 8 9; do mkfifo pipe$n; done
    """
    with agent_process(tmp_path / "1") as process:
        async with reached(process, store) as agent:
            fin = await agent.run(command)
            [kept] = fin.artifacts
            manifest = await agent.files.fetch_manifest(kept.digest)
    assert [entry.path for entry in manifest.entries] == ["fine"]
    assert (fin.state.exit_code, kept.complete) == (0, True)
    assert fin.state.cause == (
        "Left out of out: bad\\xff (its name is not UTF-8). "
        "Left out of out: far (it points to an absolute path). "
        "Left out of out: pipe1, pipe2, pipe3 and 6 more "
        "(it is no regular file, folder or link)."
    )


def test_what_a_tree_lost_would_be_seen(tmp_path: Path) -> None:
    """The negative control: each kind of loss is another picture."""
    (tmp_path / "run").write_text("1")
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "empty").mkdir()
    pictures = [picture(tmp_path)]
    (tmp_path / "run").chmod(0o755)
    pictures.append(picture(tmp_path))
    (tmp_path / "link").unlink()
    pictures.append(picture(tmp_path))
    (tmp_path / "link").write_text("1")
    pictures.append(picture(tmp_path))
    (tmp_path / "empty").rmdir()
    pictures.append(picture(tmp_path))
    assert all(before != after for before, after in pairwise(pictures))
