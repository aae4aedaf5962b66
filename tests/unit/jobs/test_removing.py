"""Removing runs: who may, what is hidden, what stays behind a tag, and what is let go of."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.listing import Listings
from dstack_agent.records import Given, Records
from dstack_agent.removals import Removals
from dstack_agent.removing import REST_SECONDS, Heard, Left, Removing
from dstack_agent.tags import Tags
from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Forbidden, Missing, Refused
from dstack_mesh.ids import Digest, MeshId, PeerId, RunId, RunName
from dstack_mesh.run_ids import run_id
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.caller import Member, Owner
from dstack_scheduler.job import Fin, JobKey, JobSpec, JobState, StateChange, TagRecord
from dstack_scheduler.needs import Needs
from dstack_scheduler.removal import Removal, removed
from support.machines import SetClock

AT = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = Digest(b"d" * 32)
ANA, BOB, WS_2 = (PeerId(letter * 32) for letter in "abc")
RUN, OTHER = run_id(1, 0, ANA), run_id(2, 0, ANA)
ME = PeerCard(PeerId("e" * 32), MeshId(""), "ws-1", (), "0", True)


@dataclass
class Agent:
    """What an agent knows of runs, and what others tell it."""

    records: Records
    tags: Tags
    removals: Removals
    listings: Listings
    removing: Removing
    clock: SetClock
    jobs: Path
    heard: list[Removal] = field(default_factory=list[Removal])
    told_of: set[RunId] = field(default_factory=set[RunId])

    def listed(self) -> list[RunId]:
        return [run.run_id for run in self.listings.runs(())]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    database, store = Database(tmp_path / "agent.db"), ChunkStore(tmp_path / "chunks")
    clock, jobs = SetClock(), tmp_path / "jobs"
    records, driven, tags = Records(database), DrivenRuns(database), Tags(database)
    removals = Removals(database, tags)
    listings = Listings(records, driven, tags, lambda: ME, None, removals)
    heard: list[Removal] = []
    told_of: set[RunId] = set()

    removing = Removing(
        *(ME.peer_id, listings, removals, Left(records, driven, store, jobs)),
        goes_on=lambda _: False,
        clock=clock,
        heard=Heard(lambda: heard, told_of.__contains__),
    )
    yield Agent(records, tags, removals, listings, removing, clock, jobs, heard, told_of)
    store.close()
    database.close()


async def ended(agent: Agent, run: RunId = RUN, by: PeerId = ANA) -> JobKey:
    """A run that was given and ended."""
    key = await begun(agent, run, by)
    state = StateChange(key, JobState.DONE, AT, exit_code=0)
    await agent.records.finish(Fin(key, state, 0, DIGEST, 0, DIGEST))
    return key


async def begun(agent: Agent, run: RunId = RUN, by: PeerId = ANA) -> JobKey:
    key = JobKey(run, 0)
    spec = JobSpec(key, RunName("calm-ibex-1"), "train", "bash", ("true",), Needs(), DIGEST, AT)
    await agent.records.accept(spec, (), Given(by, 1))
    await agent.records.enter(StateChange(key, JobState.RUNNING, AT))
    return key


def submitter(peer: PeerId) -> Member:
    return Member(peer, Role.SUBMITTER)


async def test_who_submitted_a_run_removes_it_and_nobody_else_does(agent: Agent) -> None:
    await ended(agent)
    with pytest.raises(Forbidden):
        await agent.removing.remove(RUN, submitter(BOB))
    assert agent.listed() == [RUN]
    await agent.removing.remove(RUN, submitter(ANA))
    assert agent.listed() == []
    assert [(one.by, one.checked) for one in agent.removals.all()] == [(ANA, True)]


@pytest.mark.parametrize("who", [Owner(), Member(BOB, Role.ADMIN)], ids=["owner", "admin"])
async def test_the_owner_and_admins_remove_any(agent: Agent, who: Owner | Member) -> None:
    await ended(agent)
    await agent.removing.remove(RUN, who)
    assert agent.listed() == []


async def test_a_run_that_goes_on_is_not_removed(agent: Agent) -> None:
    await begun(agent)
    with pytest.raises(Refused) as refused:
        await agent.removing.remove(RUN, submitter(ANA))
    assert refused.value.code == "run-goes-on"
    agent.heard.append(Removal(RUN, AT, ANA))
    await agent.removing.look()
    assert agent.listed() == [RUN]


async def test_nobody_removes_what_nobody_told_of(agent: Agent) -> None:
    with pytest.raises(Missing):
        await agent.removing.remove(RUN, submitter(ANA))
    agent.told_of.add(RUN)
    with pytest.raises(Forbidden):
        await agent.removing.remove(RUN, submitter(BOB))
    await agent.removing.remove(RUN, submitter(ANA))
    [said] = agent.removals.all()
    assert (said.by, said.checked) == (ANA, False)


async def test_what_was_not_checked_counts_for_the_submitter_s_runs_alone(agent: Agent) -> None:
    await ended(agent)
    [run] = agent.listings.runs(())
    assert run.given_by == ANA
    assert removed([run], [Removal(RUN, AT, BOB), Removal(OTHER, AT, ANA)]) == frozenset()
    assert removed([run], [Removal(RUN, AT, ANA)]) == {RUN}
    assert removed([run], [Removal(RUN, AT, BOB, checked=True)]) == {RUN}
    theirs = replace(run, given_by=BOB)
    assert removed([theirs], [Removal(RUN, AT, BOB)]) == frozenset(), "whoever gave it"


async def test_who_was_away_hears_of_it_and_asks_whether_they_may(agent: Agent) -> None:
    await ended(agent)
    await ended(agent, OTHER)
    agent.heard += [Removal(RUN, AT, ANA), Removal(OTHER, AT, BOB)]
    await agent.removing.look()
    assert agent.listed() == [OTHER]


async def test_a_tag_keeps_what_a_run_kept_until_it_is_taken_back(agent: Agent) -> None:
    key = await ended(agent)
    await agent.tags.state(TagRecord("lab", "v1", RUN, "calm-ibex-1", AT))
    await agent.removing.remove(RUN, submitter(ANA))
    (agent.jobs / f"{RUN}.0.1").mkdir(parents=True)
    agent.clock.time += REST_SECONDS + 1
    await agent.removing.look()
    runs = list(agent.listings.runs(()))
    assert [run.run_id for run in runs] == [RUN]
    assert removed(runs, agent.listings.beside(()).removed) == {RUN}
    await agent.tags.state(TagRecord("lab", "v1", None, "calm-ibex-1", AT + timedelta(1)))
    await agent.removing.look()
    assert agent.records.of_run(RUN) == []
    assert not (agent.jobs / f"{RUN}.0.1").exists()
    with pytest.raises(Missing):
        agent.records.find(key)


async def test_a_tag_that_others_tell_of_keeps_it_too(agent: Agent) -> None:
    await ended(agent)
    agent.removals.heard_tags = lambda: [TagRecord("lab", "v1", RUN, "calm-ibex-1", AT)]
    await agent.removing.remove(RUN, submitter(ANA))
    assert agent.listed() == [RUN]


async def test_a_removed_run_rests_before_anything_of_it_goes(agent: Agent) -> None:
    await ended(agent)
    await agent.removing.remove(RUN, submitter(ANA))
    agent.clock.time += REST_SECONDS - 1
    await agent.removing.look()
    assert agent.records.of_run(RUN) != []


async def test_what_was_checked_stays_and_there_is_one_word_for_each_run(agent: Agent) -> None:
    said = [Removal(RUN, AT, ANA, True), Removal(RUN, AT + timedelta(1), BOB)]
    for one in said:
        await agent.removals.state(one)
    assert agent.removals.all() == (said[0],)
