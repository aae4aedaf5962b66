"""What an agent answers in an auction, and when a job is its own."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.bids import BidDesk, spec_digest
from dstack_agent.ledger import HOLD_SECONDS, Ledger
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Busy, Conflict, Invalid, Missing, Refused
from dstack_mesh.ids import Address, Digest
from dstack_mesh.machine import AgentState, ExecutorKind, RunningJob
from dstack_scheduler.fit import Policy
from dstack_scheduler.job import Input, Source
from dstack_scheduler.needs import Needs
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.verdict import Later, Never, NotNow, Now
from support.bidding import ANA, BO, HERE, ONE, Agent, lab
from support.eventually import eventually_async
from support.machines import SetClock, gpu, key, machine, question, spec

ABSENT = Digest(b"a" * 32)


async def test_a_job_goes_from_ask_to_award(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        assert (await here.desk.ask(ONE)).verdict == Now(("GPU-0",))
        hold = await here.desk.reserve(ONE, 1, ANA)
        job = spec(ONE, code=HERE)
        await here.desk.commit(hold.hold_id, 1, job, {"TOKEN": "x"})
        assert here.agent.accepted == [(job, ("GPU-0",), {"TOKEN": "x"})]
        assert here.desk.running() == (RunningJob(ONE.run_name, 0, ("GPU-0",)),)
        assert [card.holder for card in here.desk.machine().gpus] == ["lazy-bobcat-1 (ana@laptop)"]


async def test_the_next_one_is_told_who_holds_the_card(tmp_path: Path) -> None:
    other = question(Needs(gpus=1), key(2))
    async with lab(tmp_path, SetClock()) as here:
        await here.desk.reserve(ONE, 1, ANA)
        verdict = (await here.desk.ask(other)).verdict
        assert isinstance(verdict, Later)
        assert verdict.reasons[0].message == "GPU 0 is held by lazy-bobcat-1 (ana-laptop)."
        with pytest.raises(Busy) as raised:
            await here.desk.reserve(other, 1, BO)
        assert raised.value.code == "gpu-busy"
        assert verdict.reasons[0].message in raised.value.why


async def test_a_bid_counts_the_bytes_that_are_not_here(tmp_path: Path) -> None:
    asked = replace(ONE, input_digests=(HERE, ABSENT, ABSENT), input_sizes_bytes=(5, 7))
    async with lab(tmp_path, SetClock()) as here:
        assert (await here.desk.ask(asked)).missing_bytes == 7


async def test_state_and_policy_are_those_of_the_moment(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock(), Policy(allow_process=False)) as here:
        assert isinstance((await here.desk.ask(ONE)).verdict, Never)
    async with lab(tmp_path, SetClock()) as here:
        here.agent.state = AgentState.PAUSED
        assert isinstance((await here.desk.ask(ONE)).verdict, NotNow)
        with pytest.raises(Busy) as raised:
            await here.desk.reserve(ONE, 1, ANA)
        assert raised.value.code == "paused"


async def test_an_ask_a_hold_and_an_award_are_judged_by_who_asks(tmp_path: Path) -> None:
    job = spec(ONE, code=HERE)
    async with lab(tmp_path, SetClock(), Policy(who=("ana-laptop",))) as here:
        assert isinstance((await here.desk.ask(ONE, BO)).verdict, Never)
        assert isinstance((await here.desk.ask(ONE, ANA)).verdict, Now)
        with pytest.raises(Busy) as refused:
            await here.desk.reserve(ONE, 1, BO)
        assert refused.value.code == "policy-who"
        hold = await here.desk.reserve(ONE, 1, ANA)
        with pytest.raises(Refused) as forbidden:
            await here.desk.commit(hold.hold_id, 1, job, {}, BO)
        assert forbidden.value.code == "policy-who"
        assert here.agent.accepted == []
        await here.desk.commit(hold.hold_id, 1, job, {}, ANA)


async def test_an_award_is_judged_by_the_whole_specification(tmp_path: Path) -> None:
    """An older asker does not say the image before."""
    policy = Policy(images=("pytorch/*",))
    asked = question(key=ONE.key, executor=ExecutorKind.DOCKER)
    async with lab(tmp_path, SetClock(), policy) as here:
        assert isinstance((await here.desk.ask(asked, ANA)).verdict, Now)
        hold = await here.desk.reserve(asked, 1, ANA)
        with pytest.raises(Refused) as forbidden:
            job = replace(spec(asked, code=HERE), image="evil")
            await here.desk.commit(hold.hold_id, 1, job, {}, ANA)
        assert forbidden.value.code == "policy-images"
        job = replace(spec(asked, code=HERE), image="pytorch/pytorch")
        await here.desk.commit(hold.hold_id, 1, job, {}, ANA)


async def test_what_the_owner_says_between_hold_and_award_counts(tmp_path: Path) -> None:
    job = spec(ONE, code=HERE)
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        here.agent.state = AgentState.PAUSED
        with pytest.raises(Busy) as raised:
            await here.desk.commit(hold.hold_id, 1, job, {}, ANA)
        assert raised.value.code == "paused"
        here.agent.state = AgentState.ALIVE
        await here.desk.commit(hold.hold_id, 1, job, {}, ANA)
        here.agent.state = AgentState.PAUSED
        await here.desk.commit(hold.hold_id, 1, job, {}, ANA)  # its answer had been lost


async def test_a_job_without_a_limit_is_told_the_owners_and_kept_as_it_came(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock(), Policy(longest_seconds=60, lender="ws-2")) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        job = spec(ONE, code=HERE)
        for _ in range(2):
            await here.desk.commit(hold.hold_id, 1, job, {}, ANA)
        assert [one for one, _, _ in here.agent.accepted] == [job, job]
        assert here.told[0] == "On ws-2 a job runs for 1m at most, says its owner."


async def test_code_must_have_arrived(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        with pytest.raises(Refused) as raised:
            await here.desk.commit(hold.hold_id, 1, spec(ONE, code=ABSENT), {})
        assert raised.value.code == "code-missing"
        await here.desk.commit(hold.hold_id, 1, spec(ONE, code=HERE), {})


@pytest.mark.parametrize(
    ("names", "secrets"),
    [
        (("LD_PRELOAD",), {"LD_PRELOAD": "/tmp/evil.so"}),
        (("1X",), {"1X": "value"}),
        (("TOKEN",), {"TOKEN": "canary\0"}),
        (("TOKEN",), {"TOKEN": "canary" * 20_000}),
        (("TOKEN",), {"TOKEN": ""}),
    ],
)
async def test_secrets_that_no_job_can_have_are_refused_without_their_value(
    tmp_path: Path, names: tuple[str, ...], secrets: dict[str, str]
) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        job = replace(spec(ONE, code=HERE), secret_names=names)
        with pytest.raises(Invalid) as raised:
            await here.desk.commit(hold.hold_id, 1, job, secrets)
        assert raised.value.code == "bad-secret"
        assert "canary" not in str(raised.value) and "evil" not in str(raised.value)
        assert here.agent.accepted == []


async def test_nothing_is_installed_for_a_container(tmp_path: Path) -> None:
    """It would be on the machine itself; no plan says so, and a hand may."""
    asked = question(Needs(gpus=1), ONE.key, executor=ExecutorKind.DOCKER)
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(asked, 1, ANA)
        job = replace(spec(asked, code=HERE), image="x", installs=("./evil",))
        with pytest.raises(Refused) as raised:
            await here.desk.commit(hold.hold_id, 1, job, {}, ANA)
        assert raised.value.code == "installs-in-container"
        assert here.agent.accepted == []


async def test_committing_twice_has_the_effect_of_one(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        job = spec(ONE, code=HERE)
        await here.desk.commit(hold.hold_id, 1, job, {})
        await here.desk.commit(hold.hold_id, 1, job, {})
        with pytest.raises(Conflict):
            await here.desk.commit(hold.hold_id, 1, replace(job, workflow="other"), {})
        here.agent.ledger.end(ONE.key)
        accepted = len(here.agent.accepted)
        await here.desk.commit(hold.hold_id, 1, job, {})
        assert len(here.agent.accepted) == accepted, "a job that ended is not taken over again"


async def test_a_job_that_is_not_taken_over_leaves_nothing_behind(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        job = spec(ONE, code=HERE)
        for trouble in (Refused("The disk is full."), ValueError("a bug")):
            hold = await here.desk.reserve(ONE, 1, ANA)
            here.agent.trouble = trouble
            with pytest.raises(type(trouble)):
                await here.desk.commit(hold.hold_id, 1, job, {})
            assert here.agent.ledger.taken() == ()
            with pytest.raises(Missing):
                await here.desk.commit(hold.hold_id, 1, job, {})
        here.agent.trouble = None
        hold = await here.desk.reserve(ONE, 1, ANA)
        await here.desk.commit(hold.hold_id, 1, job, {})


async def test_an_award_is_carried_out_though_the_caller_went_away(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        here.agent.gate.clear()
        seen = here.agent.ledger.changes.strokes
        job = spec(ONE, code=HERE)
        call = asyncio.create_task(here.desk.commit(hold.hold_id, 1, job, {}))
        await here.agent.ledger.changes.later_than(seen)
        call.cancel()
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], BaseException)
        here.agent.gate.set()
        assert await eventually_async(here.agent.what_was_accepted, within=5) == [job]


async def test_a_hold_of_a_driver_that_died_ends_on_time(tmp_path: Path) -> None:
    clock = SystemClock()
    shifted = SetClock(clock.elapsed())
    async with lab(tmp_path, shifted) as here:
        await here.desk.reserve(ONE, 1, ANA)
        seen = here.agent.ledger.changes.strokes
        shifted.time += HOLD_SECONDS
        other = await here.desk.reserve(question(Needs(gpus=1), key(2)), 1, BO)
        assert other.gpu_uuids == ("GPU-0",)
        assert here.agent.ledger.changes.strokes > seen


async def test_the_end_of_a_hold_rings_though_nobody_asks(tmp_path: Path) -> None:
    clock = SetClock()
    async with lab(tmp_path, clock) as here:
        await here.desk.reserve(ONE, 1, ANA)
        clock.time += HOLD_SECONDS - 0.05
        await here.desk.reserve(question(key=key(3)), 1, BO)  # a stroke: the pause is counted anew
        seen = here.agent.ledger.changes.strokes
        clock.time += 0.05
        await here.agent.ledger.changes.later_than(seen)
        assert [taken.key for taken in here.agent.ledger.taken()] == [key(3)]


async def test_a_released_hold_is_free(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        await here.desk.release(hold.hold_id)
        await here.desk.release(hold.hold_id)
        assert isinstance((await here.desk.ask(question(Needs(gpus=1), key(2)))).verdict, Now)


async def test_a_desk_that_does_not_run_commits_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
    with pytest.raises(Refused):
        await here.desk.commit(hold.hold_id, 1, spec(ONE, code=HERE), {})


def test_a_specification_is_named_by_what_it_says() -> None:
    job = replace(spec(ONE, code=HERE), env={"A": "1", "B": "2"}, inputs=(Input(HERE, "data"),))
    there = Source(ANA.peer_id, (Address("ws-1:7420"),))
    moved = replace(job, inputs=(Input(HERE, "data", (there,)),))
    assert spec_digest(job) == spec_digest(replace(job, env={"B": "2", "A": "1"}))
    assert spec_digest(job) == spec_digest(moved), "where inputs can be had is no part of it"
    for other in (
        replace(job, env={"A": "1"}),
        replace(job, commands=("false",)),
        replace(job, needs=Needs()),
        replace(job, prebuild=Prebuild.NEVER),
        replace(job, inputs=(Input(ABSENT, "data"),)),
    ):
        assert spec_digest(job) != spec_digest(other)


async def test_a_full_disk_ends_no_desk(tmp_path: Path) -> None:
    class Full(Ledger):
        tried = 0

        def expire(self) -> float | None:
            self.tried += 1
            if self.tried == 1:
                raise Refused("ledger.db cannot be written.", code="disk-full")
            return super().expire()

    ledger = Full(tmp_path / "ledger.db", SystemClock())
    agent = Agent(ledger, machine(gpu(0)))
    desk = BidDesk(lambda: agent.machine, ledger, agent, agent.accept)

    async def tried_twice() -> bool:
        ledger.changes.ring()  # whatever changes, it is tried again
        return ledger.tried > 1

    running = asyncio.create_task(desk.run())
    await eventually_async(tried_twice, within=5)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    ledger.close()
