"""A supervisor over a shim that does what a test says."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from dstack_agent.environments.equipping import Equipper
from dstack_agent.environments.keeping import KeptEnvironments
from dstack_agent.executor.port import Ended, Launch, Visit
from dstack_agent.jobs.bringing import Bringer
from dstack_agent.jobs.chronicle import Followed
from dstack_agent.jobs.folders import KEEPING, Keeping
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.jobs.workshop import Workshop
from dstack_agent.lease import Award, Claim
from dstack_agent.logs.wake import Wake
from dstack_agent.memory import Memory, open_memory
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind, Machine
from dstack_scheduler.errand import Errand
from dstack_scheduler.job import Fin, Input, JobKey, JobSpec, JobState, Source
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Now
from support.eventually import eventually_async

KEY = JobKey(RunId("0" * 26), 0, 1)
ME = PeerId("a" * 32)
ELSEWHERE = Source(PeerId("b" * 32), (Address("b:1"),))


@dataclass
class Puppet:
    """An executor whose jobs end when a test says so."""

    kind: ExecutorKind = ExecutorKind.PROCESS
    launching: Callable[[Launch], None] = lambda launch: None
    ended: "asyncio.Future[Ended]" = field(default_factory=asyncio.Future[Ended])
    launches: list[Launch] = field(default_factory=list[Launch])
    stops: list[bool] = field(default_factory=list[bool])

    async def launch(self, launch: Launch) -> None:
        self.launching(launch)
        self.launches.append(launch)

    async def wait(self, folder: Path) -> Ended:
        return await asyncio.shield(self.ended)

    async def spots(self, folder: Path, ports: Sequence[int]) -> tuple[None, ...]:
        return tuple(None for _ in ports)

    def visit(self, folder: Path, errand: Errand) -> AbstractAsyncContextManager[Visit]:
        raise Refused("A puppet has nothing beside it.")

    async def stop(self, folder: Path, abort: bool) -> None:
        self.stops.append(abort)
        if not self.ended.done():
            self.ended.set_result(Ended(137 if abort else 143, "stopped"))


@dataclass
class Bench:
    """A supervisor that runs."""

    home: Home
    memory: Memory
    puppet: Puppet
    supervisor: Supervisor
    arrived: asyncio.Event

    def spec(self) -> JobSpec:
        nothing = self.memory.store.put_manifest(Manifest(()).encode())
        return JobSpec(
            key=KEY,
            run_name=RunName("calm-ibex-1"),
            workflow="train",
            provider="bash",
            commands=("true",),
            needs=Needs(),
            code_digest=nothing,
            submitted_at=datetime.now(UTC),
        )

    async def accept(self, spec: JobSpec, secrets: dict[str, str] | None = None) -> Followed:
        await self.supervisor.accept(spec, (), secrets or {})
        return self.supervisor.follow(spec.key)

    async def until(self, followed: Followed, state: JobState) -> None:
        async def entered() -> bool:
            return any(each.state is state for each in followed.chronicle.states())

        await eventually_async(entered, 10)

    async def end(self, followed: Followed) -> Fin:
        async def over() -> Fin | None:
            return followed.chronicle.last_word

        fin = await eventually_async(over, 20)
        assert fin is not None
        return fin


@asynccontextmanager
async def bench(
    root: Path, puppet: Puppet | None = None, keeping: Keeping = KEEPING
) -> AsyncGenerator[Bench]:
    home, clock = Home(root), SystemClock()
    home.prepare()
    puppet = puppet or Puppet()
    arrived = asyncio.Event()

    async def fetch(digest: Digest, sources: Sequence[Source]) -> int:
        await arrived.wait()
        return 1

    async def here(digest: Digest) -> bool:
        return False

    async with AsyncExitStack() as stack:
        memory = open_memory(home, clock, stack)
        wake = await stack.enter_async_context(Wake(home.sockets / "wake.sock"))
        workshop = Workshop(
            jobs=home.jobs,
            journal_name="journal",
            records=memory.records,
            caches=memory.caches,
            ledger=memory.ledger,
            executors={ExecutorKind.PROCESS: puppet, ExecutorKind.DOCKER: puppet},
            store=memory.store,
            bringer=Bringer(here, fetch, ME),
            wake=wake,
            clock=clock,
            machine=lambda: Machine(1, 1, 1, 1),
            environment=lambda spec, folder, gpus: {},
            allowed=(),
            closed=Path("/nowhere"),
            user_home=Path.home(),
            equipper=Equipper(KeptEnvironments(home.environments, home.jobs)),
        )
        supervisor = Supervisor(workshop, keeping, again_seconds=0.05)
        async with asyncio.TaskGroup() as group:
            ready = asyncio.Event()
            running = group.create_task(supervisor.run(ready))
            await ready.wait()
            yield Bench(home, memory, puppet, supervisor, arrived)
            running.cancel()


def waiting_for_input(spec: JobSpec) -> JobSpec:
    return replace(spec, inputs=(Input(spec.code_digest, "in", (ELSEWHERE,), "prepare"),))


def lease(on: Bench) -> Award:
    """Gives the job the machine; how."""
    claim = Claim(KEY, RunName("x-1"), Needs(), ExecutorKind.PROCESS, 1, PeerId(""))
    hold = on.memory.ledger.reserve(claim, lambda taken: Now())
    award = Award(hold.hold_id, 1, KEY, Needs(), ExecutorKind.PROCESS, Digest(b"d" * 32))
    on.memory.ledger.commit(award)
    return award


async def is_so(fact: Callable[[], bool]) -> bool:
    return fact()
