"""A desk that bids, of an agent of tests."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dstack_agent.bids import BidDesk
from dstack_agent.ledger import Ledger
from dstack_agent.owner.terms import Terms
from dstack_agent.records import Given
from dstack_mesh.clock import Clock
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.run_ids import run_id
from dstack_scheduler.asker import Asker
from dstack_scheduler.fit import Policy
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.needs import Needs
from support.machines import gpu, machine, question

ANA, BO = Asker(PeerId("a" * 32), "submitter"), Asker(PeerId("b" * 32), "runner")
MEG = Asker(PeerId("d" * 32), "submitter")
NAMES = {ANA.peer_id: "ana-laptop", BO.peer_id: "", MEG.peer_id: "meg-laptop"}
HERE = Digest(b"h" * 32)
"""The code that is there."""


ONE = question(Needs(gpus=1), JobKey(run_id(1, 0, ANA.peer_id), 0))


@dataclass
class Agent:
    """A desk with a store that knows some manifests, and a place where accepted jobs land."""

    ledger: Ledger
    machine: Machine
    state: AgentState = AgentState.ALIVE
    policy: Policy = field(default_factory=Policy)
    accepted: list[tuple[JobSpec, tuple[str, ...], Mapping[str, str]]] = field(
        default_factory=list[tuple[JobSpec, tuple[str, ...], Mapping[str, str]]]
    )
    trouble: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def missing_manifest(self, digest: Digest) -> bool:
        return digest != HERE

    async def what_was_accepted(self) -> list[JobSpec]:
        return [spec for spec, _, _ in self.accepted]

    async def accept(
        self, spec: JobSpec, gpu_uuids: tuple[str, ...], secrets: Mapping[str, str], given: Given
    ) -> None:
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        self.accepted.append((spec, gpu_uuids, secrets))


@dataclass
class Lab:
    agent: Agent
    desk: BidDesk
    told: list[str]


@asynccontextmanager
async def lab(folder: Path, clock: Clock, policy: Policy | None = None) -> AsyncGenerator[Lab]:
    ledger = Ledger(folder / "ledger.db", clock)
    agent = Agent(ledger, machine(gpu(0)), policy=policy or Policy())
    agent.gate.set()
    told: list[str] = []
    desk = BidDesk(
        lambda: agent.machine,
        ledger,
        agent,
        agent.accept,
        lambda: Terms(agent.state, agent.policy),
        lambda peer: NAMES[peer],
        lambda key, sentence: told.append(sentence),
    )
    runner = asyncio.create_task(desk.run())
    try:
        async with asyncio.timeout(20):
            await desk.ask(ONE)
            yield Lab(agent, desk, told)
    finally:
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
        ledger.close()
