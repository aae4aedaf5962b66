"""What holds and leases promise, one by one."""

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.lease import Award, Claim, NotFree
from dstack_agent.ledger import HOLD_SECONDS, MAX_EPOCH, MAX_HOLDS_PER_PEER, Ledger
from dstack_agent.ledger_file import SCHEMA_VERSION, LedgerFile
from dstack_mesh.faults import (
    Broken,
    Busy,
    Conflict,
    Damaged,
    Invalid,
    Missing,
    Refused,
)
from dstack_mesh.ids import Digest, HoldId, PeerId, RunName
from dstack_mesh.machine import ExecutorKind, Machine
from dstack_scheduler.agent_port import Hold, Question
from dstack_scheduler.fit import fit
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Now
from support.machines import SetClock, gpu, key, machine, question

ONE = Needs(gpus=1)
ANA, BO = PeerId("a" * 32), PeerId("b" * 32)
TWO_CARDS = machine(gpu(0), gpu(1))


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: SetClock) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db", clock, "boot-1")
    yield ledger
    ledger.close()


def reserve(
    ledger: Ledger,
    asked: Question,
    epoch: int = 1,
    peer: PeerId = ANA,
    has: Machine = TWO_CARDS,
    owner: str = "ana",
) -> Hold:
    name = RunName(asked.run_name)
    claim = Claim(asked.key, name, asked.needs, asked.executor, epoch, peer, owner)
    return ledger.reserve(claim, lambda taken: fit(asked, has, taken))


def award(hold: Hold, asked: Question, epoch: int = 1, digest: bytes = b"spec") -> Award:
    return Award(
        hold.hold_id, epoch, asked.key, asked.needs, asked.executor, Digest(digest), "ana@laptop"
    )


def free(ledger: Ledger) -> list[str]:
    return [card.uuid for card in ledger.free(TWO_CARDS.gpus)]


def test_a_hold_takes_its_cards_and_ends_by_itself(ledger: Ledger, clock: SetClock) -> None:
    hold = reserve(ledger, question(ONE))
    assert (hold.expires_in_seconds, hold.gpu_uuids) == (HOLD_SECONDS, ("GPU-0",))
    assert free(ledger) == ["GPU-1"]
    clock.time += HOLD_SECONDS - 0.1
    assert free(ledger) == ["GPU-1"]
    clock.time += 0.1
    assert free(ledger) == ["GPU-0", "GPU-1"]


def test_reserving_again_renews_the_same_hold(ledger: Ledger, clock: SetClock) -> None:
    first = reserve(ledger, question(ONE))
    clock.time += 10
    assert reserve(ledger, question(ONE)) == first
    clock.time += 10
    assert free(ledger) == ["GPU-1"]


def test_a_renewed_hold_keeps_its_cards_though_better_ones_are_free(ledger: Ledger) -> None:
    former = reserve(ledger, question(ONE))
    second = reserve(ledger, question(ONE, key(2)))
    ledger.release(former.hold_id)
    assert reserve(ledger, question(ONE, key(2))) == second


def test_reserving_with_other_needs_replaces_the_hold(ledger: Ledger) -> None:
    first = reserve(ledger, question(ONE))
    second = reserve(ledger, question(Needs(gpus=2)))
    assert second.hold_id == first.hold_id
    assert free(ledger) == []
    with pytest.raises(NotFree):
        reserve(ledger, question(Needs(gpus=3)))
    assert free(ledger) == [], "what was refused changed nothing"


def test_what_is_not_free_says_who_has_it(ledger: Ledger) -> None:
    reserve(ledger, question(Needs(gpus=2), name="lazy-bobcat-1"))
    with pytest.raises(NotFree) as raised:
        reserve(ledger, question(ONE, key(2)), peer=BO)
    assert raised.value.code == "gpu-busy"
    assert raised.value.why == "GPUs 0 and 1 are held by lazy-bobcat-1 (ana)."


def test_a_lease_outlives_time_and_ends_with_its_job(ledger: Ledger, clock: SetClock) -> None:
    asked = question(ONE)
    lease = ledger.commit(award(reserve(ledger, asked), asked))
    assert (lease.key, lease.gpu_uuids, lease.owner) == (asked.key, ("GPU-0",), "ana@laptop")
    clock.time += 10**6
    assert ledger.leases() == (lease,)
    assert free(ledger) == ["GPU-1"]
    ledger.end(asked.key)
    ledger.end(asked.key)
    assert ledger.leases() == ()
    assert free(ledger) == ["GPU-0", "GPU-1"]


def test_committing_again_changes_nothing(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    first = ledger.commit(award(hold, asked))
    assert ledger.commit(award(hold, asked)) == first
    assert reserve(ledger, asked) == hold, "a driver that did not hear of it gets the same hold"
    ledger.end(asked.key)
    assert ledger.commit(award(hold, asked)) == replace(first, gpu_uuids=(), ended=True)


def test_committing_something_else_is_a_conflict(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    with pytest.raises(Conflict, match="something else"):
        ledger.commit(replace(award(hold, asked), needs=Needs(gpus=2)))
    with pytest.raises(Conflict, match="something else"):
        ledger.commit(replace(award(hold, asked), executor=ExecutorKind.DOCKER))
    with pytest.raises(Conflict, match="another job"):
        ledger.commit(replace(award(hold, asked), key=key(2)))
    ledger.commit(award(hold, asked))
    with pytest.raises(Conflict, match="another specification"):
        ledger.commit(award(hold, asked, digest=b"other"))
    with pytest.raises(Conflict, match="another specification"):
        ledger.commit(replace(award(hold, asked), needs=Needs()))
    with pytest.raises(Conflict, match="another specification"):
        reserve(ledger, question(Needs(gpus=2)))


def test_a_hold_that_ended_cannot_be_committed(ledger: Ledger, clock: SetClock) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    clock.time += HOLD_SECONDS
    with pytest.raises(Missing) as raised:
        ledger.commit(award(hold, asked))
    assert raised.value.code == "hold-expired"
    released = reserve(ledger, asked)
    ledger.release(released.hold_id)
    with pytest.raises(Missing):
        ledger.commit(award(released, asked))


def test_a_hold_is_told_to_its_peer_alone_until_another_driver_takes_over(ledger: Ledger) -> None:
    hold = reserve(ledger, question(ONE), peer=ANA)
    with pytest.raises(Conflict) as raised:
        reserve(ledger, question(ONE), peer=BO)
    assert raised.value.code == "held-by-another"
    with pytest.raises(Conflict):
        reserve(ledger, question(Needs(gpus=2)), peer=BO)
    assert reserve(ledger, question(ONE), epoch=2, peer=BO) == hold


def test_a_driver_with_a_higher_epoch_takes_over(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    assert reserve(ledger, asked, epoch=2, peer=BO) == hold
    assert reserve(ledger, asked, epoch=3, peer=PeerId("")) == hold
    with pytest.raises(Conflict):
        reserve(ledger, asked, epoch=2, peer=BO)


def test_refused_claims_leave_nothing_behind(tmp_path: Path, ledger: Ledger) -> None:
    reserve(ledger, question(Needs(gpus=2)))
    for run in range(20):
        with pytest.raises(NotFree):
            reserve(ledger, question(ONE, key(2 + run)), epoch=5, peer=BO)
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        assert db.execute("SELECT count(*) FROM epochs").fetchone() == (1,)
    db.close()


def test_a_card_that_a_stranger_took_since_it_was_held_is_not_awarded(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    assert hold.gpu_uuids == ("GPU-0",)
    taken = machine(replace(gpu(0), holder="pid 42 (bob)"), gpu(1))
    lease = ledger.commit(award(hold, asked), lambda others: fit(asked, taken, others))
    assert lease.gpu_uuids == ("GPU-1",)
    assert free(ledger) == ["GPU-0"]


def test_a_lower_epoch_is_refused(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked, epoch=2)
    with pytest.raises(Conflict) as raised:
        reserve(ledger, asked, epoch=1)
    assert raised.value.code == "epoch"
    with pytest.raises(Conflict):
        ledger.commit(award(hold, asked, epoch=1))
    with pytest.raises(Conflict):
        reserve(ledger, question(ONE, replace(asked.key, attempt=2)), epoch=1)
    reserve(ledger, question(ONE, replace(asked.key, job=1)), epoch=1)
    ledger.commit(award(hold, asked, epoch=3))
    with pytest.raises(Conflict):
        ledger.commit(award(hold, asked, epoch=2))


def test_a_refused_call_still_fences_lower_epochs(ledger: Ledger) -> None:
    asked = question(ONE)
    reserve(ledger, asked)
    with pytest.raises(NotFree):
        reserve(ledger, question(Needs(gpus=3), asked.key), epoch=5)
    with pytest.raises(Conflict):
        reserve(ledger, asked, epoch=4)


@pytest.mark.parametrize("epoch", [-1, MAX_EPOCH + 1, 2**64 - 1])
def test_an_epoch_that_would_fence_everybody_out_is_refused(ledger: Ledger, epoch: int) -> None:
    with pytest.raises(Invalid):
        reserve(ledger, question(ONE), epoch=epoch)
    reserve(ledger, question(ONE), epoch=1)


def test_an_attempt_that_ended_cannot_be_reserved_again(ledger: Ledger) -> None:
    asked = question(ONE)
    ledger.commit(award(reserve(ledger, asked), asked))
    ledger.end(asked.key)
    with pytest.raises(Conflict) as raised:
        reserve(ledger, asked)
    assert raised.value.code == "attempt-ended"
    reserve(ledger, question(ONE, replace(asked.key, attempt=2)))


def test_a_withdrawn_commit_is_as_if_the_hold_had_expired(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    ledger.commit(award(hold, asked))
    ledger.withdraw(asked.key)
    ledger.withdraw(asked.key)
    assert free(ledger) == ["GPU-0", "GPU-1"]
    with pytest.raises(Missing):
        ledger.commit(award(hold, asked))
    reserve(ledger, asked)


def test_releasing_a_lease_or_nothing_changes_nothing(ledger: Ledger) -> None:
    asked = question(ONE)
    hold = reserve(ledger, asked)
    ledger.commit(award(hold, asked))
    ledger.release(hold.hold_id)
    ledger.release(HoldId("nothing"))
    assert free(ledger) == ["GPU-1"]


def test_nobody_holds_more_than_a_few(ledger: Ledger, clock: SetClock) -> None:
    for run in range(MAX_HOLDS_PER_PEER):
        reserve(ledger, question(key=key(run)))
    with pytest.raises(Busy) as raised:
        reserve(ledger, question(key=key(99)))
    assert raised.value.code == "too-many-holds"
    reserve(ledger, question(key=key(0)))
    reserve(ledger, question(key=key(99)), peer=BO)
    clock.time += HOLD_SECONDS
    reserve(ledger, question(key=key(99)))


def test_enormous_needs_are_answered_not_crashed_on(ledger: Ledger) -> None:
    huge = Needs(cpus=2**32 - 1, memory_bytes=2**64 - 1, gpus=2**32 - 1, shm_bytes=2**64 - 1)
    with pytest.raises(NotFree):
        reserve(ledger, question(huge))


def test_a_restart_keeps_holds_and_leases(tmp_path: Path, ledger: Ledger, clock: SetClock) -> None:
    leased, held = question(ONE), question(ONE, key(2))
    ledger.commit(award(reserve(ledger, leased), leased))
    hold = reserve(ledger, held)
    again = Ledger(tmp_path / "ledger.db", clock, "boot-1")
    assert [taken.gpu_uuids for taken in again.taken()] == [("GPU-0",), ("GPU-1",)]
    again.commit(award(hold, held))
    again.close()


def test_another_boot_voids_holds_and_keeps_leases(
    tmp_path: Path, ledger: Ledger, clock: SetClock
) -> None:
    leased, held = question(ONE), question(ONE, key(2))
    ledger.commit(award(reserve(ledger, leased), leased))
    hold = reserve(ledger, held)
    ledger.close()
    clock.time = 3.0
    again = Ledger(tmp_path / "ledger.db", clock, "boot-2")
    assert [taken.key for taken in again.taken()] == [leased.key]
    with pytest.raises(Missing):
        again.commit(award(hold, held))
    again.close()


def test_a_clock_that_went_back_voids_holds(ledger: Ledger, clock: SetClock) -> None:
    reserve(ledger, question(ONE))
    clock.time -= 100
    assert free(ledger) == ["GPU-0", "GPU-1"]


def test_the_next_end_of_a_hold_is_known(ledger: Ledger, clock: SetClock) -> None:
    assert ledger.expire() is None
    reserve(ledger, question(ONE))
    clock.time += 5
    assert ledger.expire() == pytest.approx(HOLD_SECONDS - 5)
    clock.time += 20
    assert ledger.expire() is None


def test_no_verdict_can_give_a_card_twice(ledger: Ledger) -> None:
    asked = question(ONE)
    reserve(ledger, asked)
    other = Claim(key(2), asked.run_name, ONE, asked.executor, 1, BO)
    with pytest.raises(Broken):
        ledger.reserve(other, lambda taken: Now(("GPU-0",)))
    assert [taken.key for taken in ledger.taken()] == [asked.key]


async def test_whoever_waits_learns_of_a_change(ledger: Ledger, clock: SetClock) -> None:
    asked = question(ONE)
    seen = ledger.changes.strokes
    hold = await asyncio.to_thread(reserve, ledger, asked)
    async with asyncio.timeout(5):
        seen = await ledger.changes.later_than(seen)
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(ledger.changes.later_than(seen))
            await asyncio.sleep(0)
            await asyncio.to_thread(ledger.release, hold.hold_id)
        assert waiter.result() > seen
        seen = waiter.result()
    ledger.taken()
    ledger.expire()
    ledger.release(hold.hold_id)
    assert ledger.changes.strokes == seen, "nothing changed, nobody is woken"


def test_a_newer_file_is_refused(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "newer.db"
    Ledger(path, clock).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(Refused, match="newer"):
        Ledger(path, clock)


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "broken.db"
    path.write_bytes(b"this is not a database" * 500)
    with pytest.raises(Damaged) as raised:
        Ledger(path, clock)
    assert str(path) in raised.value.hint


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path, clock: SetClock) -> None:
    with pytest.raises(Refused):
        Ledger(tmp_path / "missing" / "ledger.db", clock)


def test_what_went_wrong_is_told_though_the_database_rolled_back_by_itself(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path / "ledger.db")
    with pytest.raises(Broken, match="impossible state"), file.transaction() as db:
        for _ in range(2):  # as a full disk does
            db.execute("INSERT OR ROLLBACK INTO cards VALUES ('GPU-0', 'hold', 0)")
    with file.transaction() as db:
        assert db.execute("SELECT count(*) FROM cards").fetchone()[0] == 0
    file.close()
