"""Two agents that joined one mesh by the commands, talking TLS over TCP, found by a seed."""

import asyncio
import json
import re
import secrets
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, RunId, RunName
from dstack_mesh.trust.authority import create_mesh
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.admission import ask_invitation
from dstack_mesh.wire.channels import Channels
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import Fin, Input, JobKey, JobSpec, JobState, LogFrame, Source
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.agent import GrpcAgent
from support.agent_process import RUNNER, AgentProcess, agent_process, environment
from support.eventually import eventually


@dataclass
class Lab:
    """Two agents of one mesh on one machine."""

    first: AgentProcess
    second: AgentProcess


def status(agent: AgentProcess) -> dict[str, list[dict[str, object]]]:
    """What `dstack-runner status --json` prints."""
    command = [*RUNNER, "status", "--json", "--home", str(agent.home.root)]
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=20, check=True)
    return json.loads(done.stdout)


def port_of(agent: AgentProcess) -> str:
    found = re.search(r"port (\d+)", agent.said())
    assert found is not None, agent.said()
    return found[1]


async def join(agent: AgentProcess, home: Path) -> None:
    """Joins a home by a code that the agent makes, as a person would."""
    channels = Channels(agent.home)
    try:
        local = channels.to_local(agent.home.agent_socket)
        invitation = await ask_invitation(local, Role.RUNNER, 60)
    finally:
        await channels.close()
    address = f"127.0.0.1:{invitation.addresses[0].rpartition(':')[2]}"
    command = [*RUNNER, "join", "-", address, "--home", str(home), "--yes"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=invitation.code,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "The other screen must show: " in done.stderr


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    listen = ("--listen", "127.0.0.1:0", "--no-mdns")
    one = Home(tmp_path / "one")
    create_mesh(one, "lab", datetime.now(UTC))
    with agent_process(one.root, *listen, "--name", "ws-1") as first:
        await join(first, tmp_path / "two")
        seed = f"127.0.0.1:{port_of(first)}"
        with agent_process(tmp_path / "two", *listen, "--name", "ws-2", "--seed", seed) as second:
            yield Lab(first, second)


def tree(agent: AgentProcess, **files: str) -> Digest:
    folder = agent.home.root / f"tree-{secrets.token_hex(4)}"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    store = ChunkStore(agent.home.chunks)
    try:
        return save_tree(store, folder).digest
    finally:
        store.close()


async def output_of(agent: GrpcAgent, spec: JobSpec) -> tuple[Fin, bytes]:
    question = Question(spec.key, spec.run_name, spec.needs, spec.executor)
    hold = await agent.reserve(question, 1)
    await agent.commit(hold.hold_id, 1, spec, {})
    output = b""
    async with agent.attach() as attachment:
        await attachment.follow(spec.key)
        async for event in attachment.events():
            if isinstance(event, LogFrame):
                output += event.data
            if isinstance(event, Fin):
                return event, output
    raise AssertionError("the stream ended without a last word")


async def test_agents_see_each_other_and_an_input_travels_between_them(lab: Lab) -> None:
    for agent in (lab.first, lab.second):
        eventually(lambda agent=agent: len(status(agent)["peers"]) == 1, 15)
    card = await lab.first.card()
    data = tree(lab.first, numbers="1 2 3\n")
    spec = JobSpec(
        key=JobKey(RunId(secrets.token_hex(13)), 0, 1),
        run_name=RunName("calm-ibex-1"),
        workflow="",
        provider="bash",
        commands=("cat data/numbers",),
        needs=Needs(),
        code_digest=tree(lab.second),
        submitted_at=datetime.now(UTC),
        inputs=(Input(data, "data", (Source(card.peer_id, card.addresses),), "prepare", 6),),
    )
    async with lab.second.agent() as second:
        fin, output = await output_of(second, spec)
        assert (fin.state.state, output) == (JobState.DONE, b"1 2 3\n")
        # Found by its id alone, at the address that the roll call knows.
        other = tree(lab.first, numbers="4\n")
        found = replace(
            spec,
            key=replace(spec.key, attempt=2),
            code_digest=spec.code_digest,
            inputs=(Input(other, "data", (Source(card.peer_id),)),),
        )
        fin, output = await output_of(second, found)
        assert (fin.state.state, output) == (JobState.DONE, b"4\n")


def test_a_home_that_did_not_join_is_told_how(tmp_path: Path) -> None:
    command = [*RUNNER, "start", "--home", str(tmp_path / "h")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=20)
    assert done.returncode == 78
    assert "dstack-runner join CODE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_before_and_at_the_start(tmp_path: Path) -> None:
    one = Home(tmp_path / "one")
    create_mesh(one, "lab", datetime.now(UTC))
    with agent_process(one.root, "--listen", "127.0.0.1:0", "--no-mdns") as first:
        taken = f"127.0.0.1:{port_of(first)}"
        other = Home(tmp_path / "other")
        create_mesh(other, "lab", datetime.now(UTC))
        for verb in ("start", "check"):
            command = [*RUNNER, verb, "--home", str(other.root), "--listen", taken]
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment(), timeout=20
            )
            assert done.returncode != 0
            assert "cannot be opened" in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
