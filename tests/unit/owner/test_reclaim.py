"""A borrowed card that somebody else uses: who is asked to go, when, and in which words."""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dstack_agent.bell import Bell
from dstack_agent.inventory import GpuSource, Inventory
from dstack_agent.inventory.declared import DeclaredSource
from dstack_agent.inventory.nvml import NvmlSource
from dstack_agent.inventory.strangers import lockers
from dstack_agent.lease import Lease
from dstack_agent.owner.reclaim import Reclaim
from dstack_agent.owner.reclaiming import Reclaiming
from dstack_agent.real_cards import container_of, within
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import Digest, HoldId, PeerId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.gpus import parse_declared
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.policy import Policy
from dstack_scheduler.policy import Reclaim as Rule
from support.eventually import eventually_async
from support.machines import FIRST, gpu, key
from support.recorded_nvml import two_v100

BO = "pid 42 (bo)"


def lease(*uuids: str, of: JobKey = FIRST, peer: str = "a" * 32) -> Lease:
    return Lease(
        key=of,
        hold_id=HoldId("h"),
        run_name=RunName("calm-ibex-1"),
        owner="ana@laptop",
        peer=PeerId(peer),
        executor=ExecutorKind.PROCESS,
        needs=Needs(gpus=len(uuids)),
        epoch=1,
        spec_digest=Digest(b""),
        gpu_uuids=uuids,
    )


def test_the_borrower_of_the_card_is_asked_once() -> None:
    core, cards = Reclaim("ws-2"), [gpu(0, holder=BO), gpu(1)]
    borrowed = [lease("GPU-0"), lease("GPU-1", of=key(2))]
    assert core.look(cards, borrowed) == []
    (asked,) = core.look(cards, borrowed)
    assert asked.key == key(1)
    assert asked.cause == "The owner of ws-2 took GPU 0 back: pid 42 (bo) uses it."
    assert core.look(cards, borrowed) == []


def test_a_process_seen_by_one_look_alone_is_no_stranger() -> None:
    """A job's own process that was just started, or that is just ending."""
    core, borrowed = Reclaim("ws-2"), [lease("GPU-0")]
    for holder in ("pid 1", "", "pid 2", "pid 3", "", "pid 3"):
        assert core.look([gpu(0, holder=holder)], borrowed) == []


def test_a_stranger_who_was_there_before_the_job_counts_too() -> None:
    core, cards = Reclaim("ws-2"), [gpu(0, holder=BO)]
    assert core.look(cards, []) == []
    assert [each.key for each in core.look(cards, [lease("GPU-0")])] == [key(1)]


def test_who_comes_again_is_asked_again() -> None:
    core, cards = Reclaim("ws-2"), [gpu(0, holder=BO)]
    core.look(cards, [lease("GPU-0")])
    assert len(core.look(cards, [lease("GPU-0")])) == 1
    core.look([gpu(0)], [])
    core.look(cards, [lease("GPU-0")])
    assert len(core.look(cards, [lease("GPU-0")])) == 1


def test_several_cards_are_said_together() -> None:
    core = Reclaim("ws-2")
    cards = [gpu(0, holder=BO), gpu(1), gpu(2, holder="pid 7")]
    core.look(cards, [lease("GPU-0", "GPU-2")])
    (asked,) = core.look(cards, [lease("GPU-0", "GPU-2")])
    assert asked.cause.startswith("The owner of ws-2 took GPUs 0 and 2 back: pid 42 (bo) and pid 7")


@dataclass
class House:
    """A machine with leases, and whom it asked to go."""

    source: GpuSource
    leases: list[Lease]
    policy: Policy
    asked: list[JobKey] = field(default_factory=list[JobKey])
    bell: Bell = field(default_factory=Bell)

    async def take_back(self, keys: Sequence[JobKey], cause: str, grace_seconds: float) -> int:
        assert grace_seconds == self.policy.grace_seconds
        self.asked += keys
        return len(keys)

    def reclaiming(self) -> Reclaiming:
        inventory = Inventory(Path("/"), SystemClock(), (self.source,))
        return Reclaiming(
            inventory.look_at_cards,
            lambda: self.leases,
            self.bell,
            lambda: self.policy,
            self.take_back,
            Reclaim("ws-2"),
        )

    async def whom(self) -> list[JobKey]:
        return self.asked


async def asked_within(house: House, seconds: float, use: Callable[[], None]) -> list[JobKey]:
    running = asyncio.create_task(house.reclaiming().run())
    try:
        await asyncio.sleep(0)
        use()
        return await eventually_async(house.whom, within=seconds)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


ASK = Policy(reclaim=Rule.ASK)


async def test_a_stranger_that_the_driver_tells_is_seen_within_two_seconds() -> None:
    nvml = two_v100()
    house = House(NvmlSource(nvml, user_of=lambda pid: "bo"), [lease("GPU-77c1")], ASK)

    def use() -> None:
        nvml.devices[1].pids = [42]

    assert await asked_within(house, 2, use) == [key(1)]


@pytest.mark.parametrize(
    ("policy", "peer"), [(Policy(reclaim=Rule.WAIT), "a" * 32), (ASK, "")], ids=["wait", "owner"]
)
async def test_who_need_not_go_is_not_asked(policy: Policy, peer: str) -> None:
    """Neither where the policy waits, nor the owner's own job."""
    house = House(NvmlSource(two_v100(pids=[42])), [lease("GPU-5f0a", peer=peer)], policy)
    reclaiming = house.reclaiming()
    look = reclaiming._look  # pyright: ignore[reportPrivateUsage]
    assert [await look() for _ in range(3)] == [False] * 3
    assert house.asked == []


async def test_a_process_stands_for_one_that_uses_a_declared_card(tmp_path: Path) -> None:
    source = DeclaredSource(tmp_path, [parse_declared("V100:16GB:2")], lockers(tmp_path))
    first, second = source.cards()
    assert (first.holder, second.holder) == ("", "")
    with user_of_card(tmp_path / second.uuid) as stranger:
        cards = source.cards()
        assert cards[0].holder == ""
        assert cards[1].holder.startswith(f"pid {stranger.pid} (")
        ours = DeclaredSource(
            tmp_path,
            [parse_declared("V100:16GB:2")],
            lockers(tmp_path),
            lambda: frozenset({stranger.pid}),
        )
        assert ours.cards()[1].holder == ""
        stranger.kill()
        stranger.wait()
        assert source.cards()[1].holder == "", "it goes with the process, however that ends"


def user_of_card(path: Path) -> "subprocess.Popen[bytes]":
    """A process that locks a file, which it has done on return."""
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
        " print(flush=True); time.sleep(60)"
    )
    started: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    started.stdout.readline()
    return started


def test_nobody_uses_a_card_that_nobody_locked(tmp_path: Path) -> None:
    (tmp_path / "GPU-0").touch()
    assert list(lockers(tmp_path)("GPU-0")) == []
    with (tmp_path / "GPU-0").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another kind of lock
        assert list(lockers(tmp_path)("GPU-0")) == []


def test_processes_in_a_container_are_told_by_their_control_group(tmp_path: Path) -> None:
    own = Path("/proc/self/cgroup").read_text().strip().rpartition("/")[2]
    if not own:
        own = Path("/proc/self/cgroup").read_text().strip()
    assert os.getpid() in within({own})
    assert within({"f" * 64}) == set()
    (tmp_path / "container.json").write_text('{"container": "abc"}')
    assert container_of(tmp_path) == "abc"
    assert container_of(tmp_path / "absent") == ""


def test_a_reading_knows_a_stranger_within_a_second_and_a_half() -> None:
    from dstack_agent.bids import SEEN_SECONDS
    from dstack_agent.inventory.inventory import GPU_SECONDS, MOMENT_SECONDS

    assert GPU_SECONDS + MOMENT_SECONDS + SEEN_SECONDS <= 2
