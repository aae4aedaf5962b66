"""Whatever peers do and whenever the agent dies: a card is one job's and is counted once."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from dstack_agent.lease import Award, Claim
from dstack_agent.ledger import HOLD_SECONDS, MAX_HOLDS_PER_PEER, Ledger
from dstack_mesh.faults import Busy, Conflict, Missing
from dstack_mesh.ids import Digest, PeerId, RunName
from dstack_mesh.machine import ExecutorKind, Machine
from dstack_scheduler.agent_port import Hold, Question
from dstack_scheduler.fit import fit
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from support.machines import SetClock, gpu, key, machine

PEERS = [PeerId(letter * 32) for letter in "abcdef"]
Held = tuple[Hold, Question, PeerId]
NOTHING: MultipleResults[Held] = multiple()


class Agent(RuleBasedStateMachine):
    """One ledger, many peers, and a model of who was told that a card is theirs."""

    holds = Bundle("holds")

    @initialize(cards=st.integers(1, 8))
    def begin(self, cards: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = SetClock()
        self.boot = 0
        self.has: Machine = machine(*map(gpu, range(cards)), cpus=64)
        self.open()
        self.leased: dict[JobKey, tuple[str, ...]] = {}
        self.over: set[JobKey] = set()
        self.epochs: dict[tuple[str, int], int] = {}
        self.holders: dict[JobKey, tuple[PeerId, int]] = {}

    def open(self) -> None:
        self.ledger = Ledger(self.folder / "ledger.db", self.clock, f"boot-{self.boot}")

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    def fenced(self, job: JobKey, epoch: int) -> bool:
        """Whether the epoch is too low; a higher one is seen where the job ever got a hold."""
        known = self.epochs.get((job.run_id, job.job))
        if known is not None:
            self.epochs[job.run_id, job.job] = max(known, epoch)
        return known is not None and epoch < known

    @rule(
        target=holds,
        run=st.integers(1, 6),
        attempt=st.integers(1, 2),
        gpus=st.integers(0, 3),
        epoch=st.integers(1, 3),
        peer=st.sampled_from(PEERS),
    )
    def reserve(self, run: int, attempt: int, gpus: int, epoch: int, peer: PeerId):
        asked = Question(
            key(run, attempt=attempt), RunName("x-1"), Needs(gpus=gpus), ExecutorKind.PROCESS
        )
        claim = Claim(asked.key, asked.run_name, asked.needs, asked.executor, epoch, peer)
        before = {taken.key: taken for taken in self.ledger.taken()}
        fenced = self.fenced(asked.key, epoch)
        try:
            hold = self.ledger.reserve(claim, lambda taken: fit(asked, self.has, taken))
        except Conflict as conflict:
            if conflict.code == "held-by-another":
                holder, its_epoch = self.holders[asked.key]
                assert asked.key in before
                assert holder != peer
                assert epoch <= its_epoch
            else:
                assert fenced or asked.key in self.over or asked.key in self.leased
            return NOTHING
        except Busy as busy:
            free = len(self.has.gpus) - sum(
                len(taken.gpu_uuids) for taken in before.values() if taken.key != asked.key
            )
            assert gpus > free or busy.code == "too-many-holds"
            return NOTHING
        assert not fenced
        self.epochs[asked.key.run_id, asked.key.job] = epoch
        others = {u for t in before.values() if t.key != asked.key for u in t.gpu_uuids}
        assert not others & set(hold.gpu_uuids)
        if asked.key in self.leased:
            assert hold.gpu_uuids == self.leased[asked.key]
        else:
            self.holders[asked.key] = (peer, epoch)
        again = self.ledger.reserve(claim, lambda taken: fit(asked, self.has, taken))
        assert again == hold
        return (hold, asked, peer)

    @rule(held=holds, epoch=st.integers(1, 3), digest=st.sampled_from([b"one", b"two"]))
    def commit(self, held: Held, epoch: int, digest: bytes) -> None:
        hold, asked, _ = held
        award = Award(hold.hold_id, epoch, asked.key, asked.needs, asked.executor, Digest(digest))
        fenced = self.fenced(asked.key, epoch)
        try:
            lease = self.ledger.commit(award)
        except Missing:
            assert asked.key not in self.leased
            return
        except Conflict:
            return
        assert not fenced
        assert self.ledger.commit(award) == lease
        if asked.key in self.over:
            assert lease.ended
            return
        assert self.leased.setdefault(asked.key, lease.gpu_uuids) == lease.gpu_uuids
        assert len(lease.gpu_uuids) == asked.needs.gpus

    @rule(held=holds)
    def release(self, held: Held) -> None:
        self.ledger.release(held[0].hold_id)

    @rule(held=holds)
    def end(self, held: Held) -> None:
        job = held[1].key
        self.ledger.end(job)
        if self.leased.pop(job, None) is not None:
            self.over.add(job)

    @rule(held=holds)
    def withdraw(self, held: Held) -> None:
        job = held[1].key
        if job not in self.over:
            self.ledger.withdraw(job)
            self.leased.pop(job, None)

    @rule(seconds=st.sampled_from([1.0, HOLD_SECONDS - 1, HOLD_SECONDS, 10**6]))
    def time_passes(self, seconds: float) -> None:
        self.clock.time += seconds

    @rule()
    def restart(self) -> None:
        before = self.ledger.taken()
        self.ledger.close()
        self.open()
        assert self.ledger.taken() == before

    @rule()
    def crash(self) -> None:
        """The old connection stays open and silent, as after a kill; a new one takes over."""
        before = self.ledger.taken()
        dead = self.ledger
        self.open()
        assert self.ledger.taken() == before
        dead.close()

    @rule()
    def reboot(self) -> None:
        self.ledger.close()
        self.boot += 1
        self.clock.time = 1.0
        self.open()
        assert {taken.key for taken in self.ledger.taken()} == set(self.leased)

    @invariant()
    def every_card_has_at_most_one_owner(self) -> None:
        if not hasattr(self, "ledger"):
            return
        taken = self.ledger.taken()
        owned = [uuid for each in taken for uuid in each.gpu_uuids]
        assert len(owned) == len(set(owned))
        assert set(owned) <= {card.uuid for card in self.has.gpus}
        assert len(self.ledger.free(self.has.gpus)) == len(self.has.gpus) - len(owned) >= 0
        running = {each.key: each.gpu_uuids for each in taken if each.running}
        assert running == self.leased

    @invariant()
    def nobody_hoards(self) -> None:
        if hasattr(self, "ledger"):
            held = sum(not each.running for each in self.ledger.taken())
            assert held <= MAX_HOLDS_PER_PEER * len(PEERS)


TestAnyHistory = Agent.TestCase
TestAnyHistory.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
