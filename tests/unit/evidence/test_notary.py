"""An agent signs what happens to its jobs, whole and in order, whenever it is stopped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.database import Database
from dstack_agent.notary import Notary
from dstack_agent.records import Given, Records
from dstack_agent.touched import Touched
from dstack_agent.vouching import Vouching
from dstack_mesh.faults import Conflict, Damaged, Forbidden, Missing
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.signing import Signed
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.evidence import Evidence, Vouched
from dstack_scheduler.job import ArtifactSaved, Fin, JobState, StateChange
from dstack_scheduler.proving import Reading, Standing, Walked, prove_chain, walk
from dstack_scheduler.wire.evidence import read_event, read_specification
from support.eventually import eventually_async
from support.rosters import signer
from support.testimony import KEY, change, ended, spec, vouched_by

READ = Reading(read_event, read_specification)
WS, ANA, MALLORY, DRIVER = signer("ws"), signer("ana"), signer("mallory"), signer("driver")
SUBMITTER, RUNNER = Asker(ANA.peer_id, "submitter"), Asker(DRIVER.peer_id, "runner")
RUN = KEY.run_id
SAVED = ArtifactSaved(KEY, "out", spec().code_digest, 1, 3, True)


class Desk:
    """The records of ws, its notary, and where signatures arrive."""

    def __init__(self, database: Database) -> None:
        self.touched, unsigned = Touched(), Touched()
        self.records = Records(database, self.touched, unsigned)
        self.notary = Notary(self.records, unsigned, lambda: WS, gather_seconds=0.01)
        self.vouching = Vouching(self.records, WS.peer_id)

    async def takes(self, given_by: PeerId = ANA.peer_id) -> None:
        await self.records.accept(spec(), ("GPU-1",), Given(given_by, 1))

    async def lives(self) -> None:
        for state in (JobState.PREPARING, JobState.RUNNING, JobState.SAVING):
            await self.records.enter(change(state))
        await self.records.save_artifact(SAVED)

    async def ends(self) -> None:
        await self.records.finish(ended(KEY, SAVED))

    async def evidence(self) -> Evidence:
        (found,) = await self.notary.evidence(RUN)
        return found

    async def is_sealed(self) -> bool:
        return self.records.is_sealed(KEY)

    async def walked(self) -> Walked:
        return walk(await self.evidence(), READ)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    database = Database(tmp_path / "agent.db")
    yield Desk(database)
    database.close()


def kinds(walked: Walked) -> list[str]:
    """The events in short."""
    return [
        each.state.value if isinstance(each, StateChange) else type(each).__name__
        for each in walked.said
    ]


WHOLE = ["Taken", "preparing", "running", "saving", "ArtifactSaved", "done", "Fin"]


async def test_a_job_is_signed_from_its_beginning_to_its_end(desk: Desk) -> None:
    await desk.takes()
    await desk.lives()
    await desk.ends()
    walked = await desk.walked()
    assert kinds(walked) == WHOLE
    assert (walked.agent, walked.giver, walked.fin) == (
        WS.peer_id,
        ANA.peer_id,
        ended(KEY, SAVED),
    )


async def test_a_chain_is_the_same_however_often_it_was_signed_meanwhile(desk: Desk) -> None:
    await desk.takes()
    began = await desk.evidence()
    await desk.lives()
    await desk.notary.sign(RUN)
    await desk.notary.sign(RUN)
    await desk.ends()
    found = await desk.evidence()
    assert kinds(walk(found, READ)) == WHOLE
    assert found.events[:1] == began.events


async def test_what_an_agent_had_not_signed_when_it_died_is_signed_when_it_is_back(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / "agent.db")
    desk = Desk(database)
    await desk.takes()
    await desk.lives()
    await desk.notary.sign(RUN)
    await desk.ends()
    database.close()

    database = Database(tmp_path / "agent.db")
    back = Desk(database)
    running = asyncio.create_task(back.notary.run())
    await eventually_async(back.is_sealed, within=10)
    told: set[RunId] = set()

    async def all_told() -> bool:
        told.update(back.touched.take()[0])
        return told == {RUN}

    await eventually_async(all_told, within=10)
    running.cancel()
    assert kinds(await back.walked()) == WHOLE
    assert back.records.unsigned() == []
    database.close()


async def test_a_partial_artifact_is_in_the_last_word_alone(desk: Desk) -> None:
    await desk.takes()
    await desk.records.enter(change(JobState.RUNNING))
    partial = replace(SAVED, complete=False)
    await desk.records.save_artifact(partial)
    await desk.records.finish(replace(ended(KEY, partial), state=change(JobState.LOST)))
    walked = await desk.walked()
    assert kinds(walked) == ["Taken", "running", "lost", "Fin"]
    assert isinstance(walked.fin, Fin)
    assert walked.fin.artifacts == (partial,)


async def test_a_submitters_signature_is_kept_and_attested_even_after_the_end(desk: Desk) -> None:
    await desk.takes()
    await desk.lives()
    await desk.ends()
    await desk.notary.sign(RUN)
    for _ in range(2):
        await desk.vouching.vouch(RUN, 0, vouched_by(ANA), SUBMITTER)
    evidence = await desk.evidence()
    walked, facts = prove_chain(evidence, READ, None, WS.peer_id)
    assert walked is not None
    assert kinds(walked)[-2:] == ["Fin", "Vouched"]
    assert [fact.standing for fact in facts] == [Standing.PROVED] * 2


async def test_the_owners_command_signs_with_the_key_of_the_home(desk: Desk) -> None:
    await desk.takes(PeerId(""))
    with pytest.raises(Forbidden):
        await desk.vouching.vouch(RUN, 0, vouched_by(ANA), OWNER)
    await desk.vouching.vouch(RUN, 0, vouched_by(WS), OWNER)
    walked, facts = prove_chain(await desk.evidence(), READ, None, WS.peer_id)
    assert walked is not None
    assert walked.giver == walked.submitter == WS.peer_id
    assert facts[0].standing is Standing.PROVED


async def test_a_driver_passes_on_who_signed(desk: Desk) -> None:
    await desk.takes(DRIVER.peer_id)
    await desk.vouching.vouch(RUN, 0, vouched_by(ANA), RUNNER)
    walked = await desk.walked()
    assert (walked.giver, walked.submitter) == (DRIVER.peer_id, ANA.peer_id)


def flipped(signed: Signed) -> Signed:
    return replace(signed, body=signed.body[:-1] + bytes([signed.body[-1] ^ 1]))


@pytest.mark.parametrize(
    ("signed", "by", "refusal"),
    [
        (vouched_by(MALLORY), SUBMITTER, Forbidden),
        (vouched_by(MALLORY), Asker(MALLORY.peer_id, "runner"), Forbidden),
        (vouched_by(ANA), Asker(MALLORY.peer_id, "admin"), Forbidden),
        (vouched_by(WS), OWNER, Forbidden),
        (flipped(vouched_by(ANA)), SUBMITTER, Damaged),
        (ANA.sign("event", vouched_by(ANA).body), SUBMITTER, Damaged),
        (vouched_by(ANA, replace(spec(), commands=("true",))), SUBMITTER, Conflict),
        (ANA.sign("specification", b"\xff"), SUBMITTER, Damaged),
    ],
)
async def test_a_signature_that_is_not_the_givers_of_this_job_is_refused(
    desk: Desk, signed: Signed, by: Asker, refusal: type[Exception]
) -> None:
    await desk.takes()
    with pytest.raises(refusal):
        await desk.vouching.vouch(RUN, 0, signed, by)
    walked = await desk.walked()
    assert walked.submitter is None
    assert not any(isinstance(each, Vouched) for each in walked.said)


async def test_a_job_that_is_not_here_takes_no_signature(desk: Desk) -> None:
    with pytest.raises(Missing):
        await desk.vouching.vouch(RUN, 0, vouched_by(ANA), SUBMITTER)


@pytest.mark.parametrize(
    "harm", ["UPDATE event SET body = x'ff' WHERE seq = 3", "DELETE FROM event WHERE seq = 3"]
)
async def test_what_is_damaged_is_told_all_the_same_and_never_signed_over(
    desk: Desk, harm: str
) -> None:
    await desk.takes()
    await desk.lives()
    await desk.ends()
    whole = await desk.evidence()
    await desk.records._database.write(  # pyright: ignore[reportPrivateUsage]
        lambda db: db.execute(harm)
    )
    told = await desk.evidence()
    assert {each.signature for each in told.events} <= {each.signature for each in whole.events}
    with pytest.raises(Damaged, match="Event 3"):
        walk(told, READ)


async def test_a_job_of_before_events_were_signed_has_none(desk: Desk) -> None:
    await desk.takes()
    await desk.records._database.write(  # pyright: ignore[reportPrivateUsage]
        lambda db: db.execute("UPDATE job SET given_by = NULL")
    )
    assert await desk.notary.evidence(RUN) == []
    assert desk.records.unsigned() == []
