"""What an agent tells others, and what these pass on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent import publishing
from dstack_agent.hearsay import AGENT, LOG, REMOVAL, RUN, TAG
from dstack_agent.publishing import essence
from dstack_mesh.card import PeerCard
from dstack_mesh.ids import MeshId, RunId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.records.record import Entry
from dstack_scheduler.job import ArtifactSaved, Fin, JobKey, JobState, TagRecord
from dstack_scheduler.removal import Removal
from support.eventually import eventually_async
from support.machines import question
from support.publishers import AT, DIGEST, Agent, answer_of, change, job, shown, tell


async def test_each_state_of_a_run_is_told_and_replaces_the_one_before(
    ws_1: Agent, ws_2: Agent
) -> None:
    asked = question()
    await ws_1.records.accept(job(asked.key), ("GPU-1",))
    for state in (JobState.PREPARING, JobState.RUNNING):
        await ws_1.records.enter(change(asked.key, state))

    async def runs() -> bool:
        await tell(ws_1, ws_2)
        tellings = ws_2.hearsay.tellings(())
        return (
            bool(tellings)
            and bool(tellings[0].runs)
            and (tellings[0].runs[0].jobs[0].state.state is JobState.RUNNING)
        )

    await eventually_async(runs, within=5)
    [telling] = ws_2.hearsay.tellings(())
    assert (telling.agent_id, telling.agent_name) == (ws_1.book.writer, "ws-1")
    assert telling.runs[0].jobs[0].agent_id == ws_1.book.writer
    assert len(list(ws_1.book.own(RUN))) == 1
    assert ws_2.hearsay.tellings(("lazy-b",))[0].runs == telling.runs
    assert not any(each.runs for each in ws_2.hearsay.tellings(("other",)))


async def test_artifacts_and_tags_are_told(ws_1: Agent, ws_2: Agent) -> None:
    asked = question()
    await ws_1.records.accept(job(asked.key), ())
    await ws_1.records.save_artifact(ArtifactSaved(asked.key, "model", DIGEST, 1, 5, True))
    await ws_1.tags.state(TagRecord("repo", "v1", asked.key.run_id, "lazy-bobcat-1", AT))
    await shown(ws_1, TAG, 1)

    async def told() -> bool:
        await tell(ws_1, ws_2)
        [telling] = ws_2.hearsay.tellings(())
        return bool(telling.runs and telling.runs[0].jobs[0].copies and telling.tags)

    await eventually_async(told, within=5)


async def test_a_removed_run_is_told_no_more_and_that_it_was_removed_is(
    ws_1: Agent, ws_2: Agent
) -> None:
    asked = question()
    await ws_1.records.accept(job(asked.key), ())
    await ws_1.records.enter(change(asked.key, JobState.DONE, 0))
    await shown(ws_1, RUN, 1)
    await tell(ws_1, ws_2)
    assert ws_2.hearsay.tells_of(asked.key.run_id)
    removal = Removal(asked.key.run_id, datetime.now(UTC), ws_1.book.writer, checked=True)
    await ws_1.removals.state(removal)
    await shown(ws_1, RUN, 0)
    await shown(ws_1, REMOVAL, 1)
    await tell(ws_1, ws_2)
    [telling] = ws_2.hearsay.tellings(())
    assert (telling.runs, telling.removed) == ((), (removal,))
    assert list(ws_2.hearsay.removals()) == [removal]


async def test_of_a_revoked_agent_only_what_had_ended_is_told(ws_1: Agent, ws_2: Agent) -> None:
    over, going_on = question(), question(key=JobKey(RunId("01HG00000000000000000000G0"), 0, 1))
    for asked, state in ((over, JobState.DONE), (going_on, JobState.RUNNING)):
        await ws_1.records.accept(job(asked.key), ())
        await ws_1.records.enter(change(asked.key, state, 0 if state.ended else None))
    await ws_1.tags.state(TagRecord("repo", "v1", over.key.run_id, "lazy-bobcat-1", AT))
    await shown(ws_1, TAG, 1)

    async def told() -> bool:
        await tell(ws_1, ws_2)
        return any(len(each.runs) == 2 for each in ws_2.hearsay.tellings(()))

    await eventually_async(told, within=5)
    ws_2.disbelieved.add(ws_1.book.writer)
    ws_2.book.reconsider()
    [telling] = ws_2.hearsay.tellings(())
    assert [run.run_id for run in telling.runs] == [over.key.run_id]
    assert (telling.revoked, telling.answers, telling.tags) == (True, False, ())
    assert telling.agent_name == "ws-1"
    assert not ws_2.hearsay.adverts()


async def test_the_end_of_a_log_is_kept_when_its_job_ended(
    ws_1: Agent, ws_2: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader:
        """Gives the bytes of a log of 10,000 bytes of "o" and 3 of "e"."""

        def __init__(self, path: Path) -> None:
            pass

        def read(self, stdout: int, stderr: int, most: int) -> list[object]:
            from dstack_agent.logs.journal import Frame
            from dstack_scheduler.job import LogStream

            found: list[object] = []
            if stdout < 10_000:
                found.append(Frame(LogStream.STDOUT, stdout, b"o" * (10_000 - stdout), 0))
            if stderr < 3:
                found.append(Frame(LogStream.STDERR, stderr, b"e" * (3 - stderr), 0))
            return found

        def close(self) -> None:
            pass

    monkeypatch.setattr(publishing, "JournalReader", Reader)
    asked = question()
    await ws_1.records.accept(job(asked.key), ())
    done = change(asked.key, JobState.DONE, 0)
    await ws_1.records.finish(Fin(asked.key, done, 10_000, DIGEST, 3, DIGEST))
    await shown(ws_1, LOG, 1)
    await tell(ws_1, ws_2)
    [tail] = ws_2.hearsay.tails(asked.key.run_id)
    assert (tail.stdout_bytes, tail.stdout, tail.stderr) == (10_000, b"o" * 4096, b"eee")
    assert ws_2.hearsay.tails(RunId("9" * 26)) == ()


async def test_who_we_are_is_told_again_only_when_it_changed_and_not_too_often(
    ws_1: Agent, ws_2: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shown(ws_1, AGENT, 1)
    ws_1.answers.append(replace(answer_of(ws_1.card), state=AgentState.PAUSED))
    soon = ws_1.book.versions()
    await ws_1.publisher.advertise()
    assert ws_1.book.versions() == soon
    ws_1.answers.pop()
    monkeypatch.setattr(publishing, "ADVERT_SECONDS", 0.0)
    before = ws_1.book.versions()
    ws_1.answers.append(answer_of(ws_1.card, free=(8 << 30) + 1))
    await ws_1.publisher.advertise()
    assert ws_1.book.versions() == before
    ws_1.answers.append(replace(answer_of(ws_1.card), state=AgentState.DRAINING))
    await ws_1.publisher.advertise()
    assert ws_1.book.versions() != before
    await tell(ws_1, ws_2)
    [advert] = ws_2.hearsay.adverts()
    assert (advert.said.card.name, advert.said.state) == ("ws-1", AgentState.DRAINING)
    assert not advert.answers


async def test_when_an_agent_was_heard_is_the_later_of_its_word_and_its_answer(
    ws_1: Agent, ws_2: Agent
) -> None:
    await shown(ws_1, AGENT, 1)
    await tell(ws_1, ws_2)
    [advert] = ws_2.hearsay.adverts()
    assert abs(advert.heard_at - datetime.now(UTC)) < timedelta(seconds=10)
    ws_2.known[:] = [KnownAgent(ws_1.card, ws_1.card.addresses, "seed", "alive", ws_1.answers[-1])]
    [advert] = ws_2.hearsay.adverts()
    assert advert.answers
    heard = advert.heard_at
    ws_2.known.clear()
    [advert] = ws_2.hearsay.adverts()
    assert not advert.answers
    assert abs(heard - advert.heard_at) < timedelta(seconds=1)


async def test_a_record_that_cannot_be_read_hides_no_other(ws_1: Agent, ws_2: Agent) -> None:
    run_id = question().key.run_id
    await ws_2.book.write([Entry(RUN, "x", b"\xff\xff"), Entry(TAG, "y", b"\xff")])
    await ws_1.records.accept(job(question().key), ())
    await shown(ws_1, RUN, 1)
    await tell(ws_2, ws_1)
    assert all(not each.runs for each in ws_1.hearsay.tellings(()))
    await tell(ws_1, ws_2)
    assert [run.run_id for each in ws_2.hearsay.tellings(()) for run in each.runs] == [run_id]


async def test_a_row_that_cannot_be_read_holds_up_no_other_run(ws_1: Agent, ws_2: Agent) -> None:
    bad, good = JobKey(RunId("8" * 26), 0), JobKey(RunId("7" * 26), 0)
    fin = Fin(bad, replace(change(bad, JobState.FAILED, 1), cause="\0"), 0, DIGEST, 0, DIGEST)
    await ws_1.records.accept(job(bad), ())
    await ws_1.records.finish(fin)
    await ws_1.records.accept(job(good), ())
    await shown(ws_1, RUN, 1)
    await tell(ws_1, ws_2)
    assert [run.run_id for each in ws_2.hearsay.tellings(()) for run in each.runs] == [good.run_id]


def test_rough_steps_hide_what_changes_all_the_time() -> None:
    card = PeerCard(RunId("p"), MeshId("m"), "ws", (), "", True)  # pyright: ignore[reportArgumentType]
    one = answer_of(card)
    assert essence(one) == essence(answer_of(card, free=(8 << 30) + 1000))
    assert essence(one) != essence(answer_of(card, free=1 << 30))
