"""Messages that no peer of ours sends change nothing, cost nothing and are refused in words.

`DSTACK_CHAOS_ROUNDS=1000000 pytest tests/mesh/test_hostile_messages.py` sends so many to each
service.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.message import DecodeError, Message

from dstack_mesh.card import HelloAnswer, PeerCard, PeerHint
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import HoldId, MeshId, RunName
from dstack_mesh.machine import AgentState, CardLoad, JobLoad, Load, RunningJob
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import run_pb2
from dstack_mesh.wire.membership import answer_from_wire, answer_to_wire
from dstack_scheduler.agent_port import Hold, Listing
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobState,
    LogFrame,
    LogStream,
    LogTail,
    RunRecord,
    StateChange,
)
from dstack_scheduler.verdict import Bid, NotNow, Reason
from dstack_scheduler.wire import convert, hearsay, questions
from dstack_scheduler.wire.attachment import event_from_wire
from dstack_scheduler.wire.hearsay import Advert
from support import machines
from support.every_method import METHODS, service_of
from support.meshes import Mesh
from support.mutations import mutated
from support.rounds import rounds, seeded
from support.valid_messages import AT, DIGEST, PEER, RUN, SOURCE, valid_messages
from support.whole_agent import (
    Bugs,
    Collected,
    Context,
    Method,
    certificate_of,
    guarded,
    watched_for_bugs,
    whole_agent,
)

GROWTH_BYTES = 100 << 20
SLOWEST_SECONDS = 5.0
"""A busy machine included; a message that hangs would never end."""

ENDLESS = "/grpc.health.v1.Health/Watch"
"""Ends when its caller goes, by design; whoever is slow there is another test's."""

ABSENT = "AdmissionService"
"""Served by the listener of an invitation, not by an agent: see `test_hostile_newcomers.py`."""


class Storm:
    """Sends messages to methods and remembers the answers."""

    def __init__(self, chance: Random, contexts: Sequence[Callable[[], Context]]) -> None:
        self.chance = chance
        self.contexts = contexts
        self.answers: Counter[str] = Counter()
        self.slowest = (0.0, "")

    async def send(self, name: str, method: Method, seeds: Sequence[Message]) -> None:
        """One call."""
        count = self.chance.randint(1, 3) if method.takes_stream else 1
        try:
            messages = [method.read(mutated(self.chance, seeds)) for _ in range(count)]
        except DecodeError:
            self.answers["unreadable"] += 1
            return
        began = time.monotonic()
        async with asyncio.timeout(60):
            code = await method.call(messages, self.chance.choice(self.contexts)())
        self.slowest = max(self.slowest, (time.monotonic() - began, f"{name} {messages}"[:2000]))
        self.answers[code.name if code else "answered"] += 1


def callers(mesh: Mesh, folder: Path) -> list[Callable[[], Context]]:
    """The owner and a member of each role."""
    shown = [certificate_of(mesh.admit(folder / role.value, role=role)) for role in Role]
    return [Context, *(lambda shown=one: Context(shown) for one in shown)]


def told(bugs: Bugs) -> str:
    """What went wrong, with the place."""
    formatter = logging.Formatter()
    return "\n".join(formatter.format(one) for one in bugs.found[:3])


@pytest.mark.parametrize("service", sorted({service_of(name) for name in METHODS} - {ABSENT}))
async def test_messages_changed_by_chance_are_answered_or_refused_and_cost_no_memory(
    service: str, tmp_path: Path
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    seeds = valid_messages(mesh.admit(tmp_path / "laptop"))
    storm = Storm(seeded(service), callers(mesh, tmp_path))
    process, total = psutil.Process(), rounds(1_500)
    async with watched_for_bugs() as bugs, whole_agent(mesh.root) as methods:
        names = [name for name in methods if service_of(name) == service and name != ENDLESS]
        assert names
        for name in names * 20:
            await storm.send(name, methods[name], seeds[name])
        gc.collect()
        before, most, began = process.memory_info().rss, 0, time.monotonic()
        for number in range(total):
            name = storm.chance.choice(names)
            await storm.send(name, methods[name], seeds[name])
            assert not bugs.found, told(bugs)
            if number % 100 == 0:
                await asyncio.sleep(0)  # timeouts that were not needed go
            if number % 1000 == 0:
                most = max(most, process.memory_info().rss)
        gc.collect()
        grown = max(most, process.memory_info().rss) - before
    took = time.monotonic() - began
    print(
        f"{service}: {total:,} messages in {took:.0f} s ({1e6 * took / total:.0f} us each), memory "
        f"grew by {grown / (1 << 20):.1f} MiB, slowest {storm.slowest[0]:.3f} s, "
        f"{dict(storm.answers)}"
    )
    assert storm.slowest[0] < SLOWEST_SECONDS, storm.slowest[1]
    assert grown < GROWTH_BYTES
    assert storm.answers.keys() - {"unreadable"}


def answers() -> dict[str, tuple[Message, Callable[[Any], object]]]:
    """What peers answer, and what reads it."""
    job, state = machines.key(), StateChange(machines.key(), JobState.DONE, AT, "", "", 0)
    artifact = ArtifactSaved(job, "out", DIGEST, 1, 5, True)
    fin = Fin(job, state, 1, DIGEST, 1, DIGEST, (artifact,))
    card = PeerCard(PEER, MeshId(PEER), "ws-1", SOURCE.addresses, "0.1.0", True)
    machine = machines.machine(machines.gpu(0))
    running = (RunningJob(RunName("calm-ibex-1"), 0, ("GPU-0",)),)
    load = Load(1.5, (JobLoad(RUN, 0, 0.5, 4096),), (CardLoad("GPU-0", 4096, 50),))
    hints = (PeerHint(PEER, ()),)
    hello = HelloAnswer(card, AgentState.ALIVE, machine, running, hints, AT, load)
    run = RunRecord(RUN, RunName("calm-ibex-1"), "train", "ana@laptop", AT, 1)
    tail = LogTail(job, 1, b"x", 1, b"y", AT)
    frame = LogFrame(job, LogStream.STDOUT, 0, b"hello", AT)
    busy = Bid(NotNow((Reason("gpu-busy", "It is in use."),)), 5)
    return {
        "hello": (answer_to_wire(hello), answer_from_wire),
        "advert": (hearsay.advert_to_wire(Advert(hello, AT, True)), hearsay.advert_from_wire),
        "bid": (questions.bid_to_wire(busy), questions.bid_from_wire),
        "hold": (questions.hold_to_wire(Hold(HoldId("h"), 5.0, ())), questions.hold_from_wire),
        "listing": (convert.listing_to_wire(Listing((run,), ())), convert.listing_from_wire),
        "tail": (convert.log_tail_to_wire(tail), convert.log_tail_from_wire),
        "fin": (run_pb2.AttachResponse(fin=convert.fin_to_wire(fin)), event_from_wire),
        "frame": (run_pb2.AttachResponse(log=convert.frame_to_wire(frame)), event_from_wire),
        "state": (run_pb2.AttachResponse(state=convert.state_to_wire(state)), event_from_wire),
    }


@pytest.mark.parametrize("kind", answers())
def test_answers_changed_by_chance_are_read_or_refused(kind: str) -> None:
    seed, read = answers()[kind]
    chance, refused, slowest = seeded(kind), 0, 0.0
    for _ in range(rounds(2_000)):
        try:
            message = type(seed).FromString(mutated(chance, [seed]))
        except DecodeError:
            continue
        began = time.monotonic()
        try:
            read(message)
        except MeshError:
            refused += 1
        slowest = max(slowest, time.monotonic() - began)
    print(f"{kind}: {refused:,} refused, slowest {slowest * 1000:.1f} ms")
    assert refused
    assert slowest < SLOWEST_SECONDS


async def test_every_method_of_an_agent_is_stormed(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    seeds = valid_messages(mesh.admit(tmp_path / "laptop"))
    stormed = {name for name in METHODS if service_of(name) != ABSENT}
    async with whole_agent(mesh.root) as methods:
        assert methods.keys() == seeds.keys() == stormed


async def test_a_servicer_that_breaks_would_be_caught(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "root")
    seeds = valid_messages(mesh.admit(tmp_path / "laptop"))

    async def listing(request: Any, context: object) -> None:
        assert request.runs != [], "a bug that an empty list of names finds"

    collected, name = Collected(), "/dstack_mesh.v1.RunService/List"
    make: Any = grpc.unary_unary_rpc_method_handler
    collected.methods[name] = make(listing, run_pb2.ListRequest.FromString)
    storm = Storm(seeded("caught"), [Context])
    async with watched_for_bugs() as bugs:
        method = (await guarded(collected))[name]
        for _ in range(200):
            await storm.send(name, method, seeds[name])
    assert bugs.found
    assert "INTERNAL" in storm.answers
