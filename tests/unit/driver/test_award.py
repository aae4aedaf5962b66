"""Bytes and award: the hold lives while bytes move, and no answer is never taken for a no."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace

import pytest

from dstack_mesh.faults import Broken, Busy, Conflict, MeshError, Missing, Refused, Unreachable
from dstack_mesh.ids import Address, Digest, HoldId, PeerId
from dstack_scheduler.agent_port import Hold, Listing, Question
from dstack_scheduler.award import Carrier, Confirmation, Parcel, can_fetch, commit, renewed
from dstack_scheduler.job import Input, JobSpec, JobState, Source
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import FakeJob
from support.fake_store import FakeStore
from support.submissions import CODE, Remembering, planned, submission

SPEC = submission(planned(0, "echo a")).jobs[0].spec
QUESTION = Question(SPEC.key, SPEC.run_name, SPEC.needs, SPEC.executor)
DATA = Digest(b"d" * 32)
QUICK = (0.0, 0.0, 0.0)


class Answering(FakeAgent):
    """An agent whose answers to the award are given one after the other; None is yes."""

    def __init__(self, *answers: MeshError | None) -> None:
        super().__init__(FakeMachine("there"), FakeStore(CODE), local=False)
        self.answers = list(answers)

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


async def confirmation(agent: FakeAgent) -> Confirmation:
    return await commit(agent, Hold(HoldId("h"), 15.0), 1, SPEC, {}, QUICK)


LOST = Unreachable("there cannot be reached.")
ENDED = Conflict("Attempt 1 ended here.", code="attempt-ended")
BUG = Broken("Commit failed inside the answering peer.")


async def test_a_lost_answer_is_asked_for_again() -> None:
    assert await confirmation(Answering(LOST, LOST, None)) is Confirmation.CONFIRMED


async def test_an_attempt_that_ended_meanwhile_was_awarded() -> None:
    assert await confirmation(Answering(LOST, ENDED)) is Confirmation.CONFIRMED


async def test_an_attempt_that_ended_before_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        await confirmation(Answering(ENDED))


async def test_silence_is_neither_yes_nor_no() -> None:
    assert await confirmation(Answering(LOST, LOST, LOST)) is Confirmation.UNCONFIRMED


async def test_a_hold_that_expired_meanwhile_is_a_no() -> None:
    with pytest.raises(Missing):
        await confirmation(Answering(LOST, Missing("The hold is gone.")))


class Having(Answering):
    """The same, and the agent has the job since the first try."""

    async def list_runs(
        self, runs: Sequence[str] = (), reuse_keys: Sequence[Digest] = ()
    ) -> Listing:
        job = FakeJob(SPEC, ())
        job.enter(JobState.RUNNING)
        self.machine.jobs[SPEC.key] = job
        return await super().list_runs(runs, reuse_keys)


@pytest.mark.parametrize("refused", [Busy("The disk is full."), Refused("It is stopping.")])
async def test_a_repetition_that_is_refused_is_no_answer_for_the_first_try(
    refused: MeshError,
) -> None:
    assert await confirmation(Having(LOST, refused)) is Confirmation.UNCONFIRMED
    with pytest.raises(type(refused)):
        await confirmation(Answering(LOST, refused))
    with pytest.raises(type(refused)):
        await confirmation(Answering(refused))


async def test_one_renewal_may_get_lost() -> None:
    machine, arrived = FakeMachine("there"), asyncio.Event()
    agent = machine.seen_by(FakeStore(CODE))
    machine.lost_answers = 1

    async def renewed_often() -> bool:
        return machine.calls.count("reserve") >= 3

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        moving = arrived.wait()
        tasks.create_task(renewed(agent, QUESTION, 1, _nothing(moving), every_seconds=0.01))
        await eventually_async(renewed_often, within=5)
        arrived.set()


async def _nothing(awaited: Awaitable[object]) -> None:
    await awaited


async def test_a_bug_of_the_agent_is_a_no_if_it_does_not_list_the_job() -> None:
    with pytest.raises(Broken):
        await confirmation(Answering(BUG, BUG, BUG))


async def test_a_bug_of_the_agent_is_no_answer_if_it_cannot_be_asked() -> None:
    agent = Answering(BUG, BUG, BUG)
    agent.machine.up = False

    assert await confirmation(agent) is Confirmation.UNCONFIRMED


async def test_the_hold_is_renewed_while_bytes_move() -> None:
    machine, arrived = FakeMachine("there"), asyncio.Event()
    agent = machine.seen_by(FakeStore(CODE))

    async def bring() -> None:
        await arrived.wait()

    async def renewed_often() -> bool:
        return machine.calls.count("reserve") >= 3

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(renewed(agent, QUESTION, 1, bring(), every_seconds=0.01))
        await eventually_async(renewed_often, within=5)
        arrived.set()


async def test_a_hold_that_cannot_be_renewed_ends_the_transfer() -> None:
    machine, ended = FakeMachine("there"), asyncio.Event()
    machine.up = False

    async def bring() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(Unreachable):
        await renewed(machine.seen_by(FakeStore()), QUESTION, 1, bring(), every_seconds=0.01)
    assert ended.is_set()


def test_an_agent_can_fetch_what_it_has_or_can_dial() -> None:
    card = FakeMachine("there").card
    private = Input(DATA, "a", (Source(PeerId("p" * 32)),))
    own = Input(DATA, "a", (Source(card.peer_id),))
    near = Input(DATA, "a", (Source(PeerId("n" * 32), (Address("10.0.0.2:7420"),)),))

    assert [can_fetch(card, each) for each in (private, own, near)] == [False, True, True]


async def test_an_input_that_nobody_can_bring_says_whose_it_is() -> None:
    carrier = Carrier(FakeDirectory(), FakeStore(CODE), Remembering().saw)
    lost = Input(DATA, "data", (Source(PeerId("p" * 32)),), origin="calm-ibex-1 (prepare)")
    parcel = Parcel(replace(SPEC, inputs=(lost,)))

    with pytest.raises(Refused) as refused:
        await carrier.bring(FakeMachine("there").seen_by(FakeStore(CODE)), parcel)

    assert "calm-ibex-1 (prepare)" in refused.value.what
