"""Runs as several agents tell them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from dstack_cli.output.runs import away_text
from dstack_cli.picture import Away, absentees, current_tags, put_together, status_of
from dstack_cli.remembered import Submitted
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.agent_port import Listing, Telling
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
WS1, WS2, WS3 = PeerId("ws1"), PeerId("ws2"), PeerId("ws3")
RUN = RunId("01A")


def job(
    index: int,
    state: JobState,
    agent: PeerId | None = WS1,
    attempt: int = 1,
    exit_code: int | None = None,
) -> JobRecord:
    key = JobKey(RUN, index, attempt)
    return JobRecord(
        key, "train", "bash", StateChange(key, state, AT, exit_code=exit_code), agent_id=agent
    )


def run(*jobs: JobRecord, count: int = 1, run_id: RunId = RUN) -> RunRecord:
    return RunRecord(run_id, RunName("calm-ibex-1"), "train", "ana@laptop", AT, count, jobs=jobs)


def listing(*runs: RunRecord, tags: tuple[TagRecord, ...] = ()) -> Listing:
    return Listing(runs, tags)


def test_the_agent_that_has_a_job_knows_best_whoever_answers_first() -> None:
    tellings = [
        (WS2, listing(run(job(0, JobState.WAITING, agent=WS1)))),
        (WS1, listing(run(job(0, JobState.RUNNING, agent=WS1)))),
        (WS3, listing(run(job(0, JobState.LOST, agent=WS1)))),
    ]
    for order in permutations(tellings):
        assert [picture.status for picture in put_together(order)] == [JobState.RUNNING]


def test_a_newer_attempt_wins_over_the_old_agents_word() -> None:
    old = listing(run(job(0, JobState.LOST, agent=WS1)))
    new = listing(run(job(0, JobState.RUNNING, agent=WS2, attempt=2)))
    assert put_together([(WS1, old), (WS2, new)])[0].status is JobState.RUNNING


def test_jobs_of_a_chain_are_collected_from_their_agents() -> None:
    first = listing(run(job(0, JobState.DONE, WS1, exit_code=0), count=2))
    second = listing(run(job(1, JobState.FAILED, WS2, exit_code=3), count=2))
    picture = put_together([(WS2, second), (WS1, first)])[0]
    assert [record.key.job for record in picture.record.jobs] == [0, 1]
    assert picture.status is JobState.FAILED
    assert picture.deciding is not None and picture.deciding.exit_code == 3


def test_copies_are_counted_from_everybody() -> None:
    here = replace(job(0, JobState.DONE), copies=(Source(WS1),))
    there = replace(job(0, JobState.DONE), copies=(Source(WS2),))
    picture = put_together([(WS1, listing(run(here))), (WS2, listing(run(there)))])[0]
    assert [copy.peer_id for copy in picture.record.jobs[0].copies] == [WS1, WS2]


@pytest.mark.parametrize(
    ("states", "count", "status"),
    [
        ([], 1, JobState.WAITING),
        ([JobState.WAITING], 1, JobState.WAITING),
        ([JobState.DONE], 2, JobState.WAITING),
        ([JobState.DONE, JobState.PREPARING], 2, JobState.PREPARING),
        ([JobState.DONE, JobState.DONE], 2, JobState.DONE),
        ([JobState.FAILED], 2, JobState.FAILED),
        ([JobState.STOPPED], 1, JobState.STOPPED),
        ([JobState.LOST], 1, JobState.LOST),
    ],
)
def test_a_run_is_what_its_jobs_are(states: list[JobState], count: int, status: JobState) -> None:
    assert status_of(run(*(job(i, s) for i, s in enumerate(states)), count=count)) is status


def test_runs_nobody_told_of_are_remembered_and_said_to_be() -> None:
    kept = Submitted("01B", "shy-owl-2", "train", "ana@laptop", "", AT.isoformat(), {})
    told = put_together([(WS1, listing(run(job(0, JobState.DONE))))], [kept])
    assert [(p.record.run_name, p.heard) for p in told] == [
        ("shy-owl-2", False),
        ("calm-ibex-1", True),
    ]


def test_a_chain_we_submitted_is_not_done_while_only_its_first_job_is_known() -> None:
    """An agent that has one job does not know how many there are."""
    kept = Submitted(RUN, "calm-ibex-1", "train", "ana@laptop", "", AT.isoformat(), {}, job_count=2)
    [picture] = put_together([(WS1, listing(run(job(0, JobState.DONE))))], [kept])
    assert (picture.status, picture.record.job_count) == (JobState.WAITING, 2)


def test_the_newest_statement_on_a_name_wins_and_can_take_it_back() -> None:
    first = TagRecord("r", "v1", RUN, "calm-ibex-1", AT)
    moved = TagRecord("r", "v1", RunId("01B"), "shy-owl-2", AT + timedelta(seconds=1))
    taken = TagRecord("r", "v2", RUN, "calm-ibex-1", AT)
    back = TagRecord("r", "v2", None, "", AT + timedelta(seconds=1))
    for order in permutations([first, moved, taken, back]):
        assert current_tags([Listing((), order)]) == [moved]


def telling(
    agent: PeerId, *runs: RunRecord, answers: bool = False, minutes: int = 0, heard: int = 0
) -> Telling:
    said, at = AT + timedelta(minutes=minutes), AT + timedelta(minutes=heard)
    return Telling(agent, f"name of {agent}", at, answers, said, runs)


def passing_on(*tellings: Telling) -> Listing:
    return Listing((), (), tellings, for_all=True)


def test_the_last_word_of_an_agent_that_is_gone_is_shown_as_such() -> None:
    gone = telling(WS1, run(job(0, JobState.RUNNING)), heard=5)
    [picture] = put_together([(WS2, passing_on(gone))])
    assert (picture.status, picture.heard, picture.stale) == (JobState.RUNNING, True, True)
    assert picture.away == (Away(WS1, "name of ws1", AT + timedelta(minutes=5)),)


def test_beside_the_finished_run_of_a_revoked_agent_it_says_so() -> None:
    shut_out = replace(telling(WS1, run(job(0, JobState.DONE)), heard=5), revoked=True)
    [picture] = put_together([(WS2, passing_on(shut_out))])
    assert (picture.status, picture.stale) == (JobState.DONE, True)
    assert away_text(picture.away, AT) == "name of ws1 revoked"


def test_the_word_that_an_agent_said_last_counts_whoever_passes_it_on() -> None:
    old = telling(WS1, run(job(0, JobState.RUNNING)), minutes=1)
    new = telling(WS1, run(job(0, JobState.DONE)), minutes=2)
    for one, other in permutations([old, new]):
        [picture] = put_together([(WS2, passing_on(one)), (WS3, passing_on(other))])
        assert picture.status is JobState.DONE


def test_an_agent_that_answers_itself_needs_nobody_to_speak_for_it() -> None:
    early = telling(WS1, run(job(0, JobState.PREPARING)), minutes=9)
    direct = listing(run(job(0, JobState.RUNNING)))
    [picture] = put_together([(WS2, passing_on(early)), (WS1, direct)])
    assert (picture.status, picture.stale) == (JobState.RUNNING, False)


def test_an_agent_that_anybody_hears_is_not_away() -> None:
    slow = telling(WS1, run(job(0, JobState.RUNNING)), answers=True)
    silent = telling(WS1, run(job(0, JobState.RUNNING)))
    assert not absentees([(WS2, passing_on(slow)), (WS3, passing_on(silent))])
    assert absentees([(WS3, passing_on(silent))]).keys() == {WS1}


def test_a_tag_that_was_said_to_a_dead_agent_holds() -> None:
    tag = TagRecord("r", "v1", RUN, "calm-ibex-1", AT)
    gone = replace(telling(WS1, run(job(0, JobState.DONE))), tags=(tag,))
    listings = [(WS2, passing_on(gone))]
    assert current_tags([one for _, one in listings]) == [tag]
    assert put_together(listings)[0].tags == ("v1",)


def test_copies_count_what_can_be_reached_of_what_has_the_fewest() -> None:
    def kept(index: int, *holders: PeerId) -> JobRecord:
        done = job(index, JobState.DONE)
        saved = ArtifactSaved(done.key, "out", Digest(bytes(32)), 1, 1, complete=True)
        return replace(done, artifacts=(saved,), copies=tuple(map(Source, holders)))

    whole = run(kept(0, WS1, WS2, WS3), kept(1, WS1, WS2), job(2, JobState.RUNNING), count=3)
    gone = Telling(WS2, "ws-2", AT, answers=False, said_at=AT)
    [all_there] = put_together([(WS1, listing(whole)), (WS2, listing()), (WS3, listing())])
    assert (all_there.copies, all_there.promised) == (2, 2)
    without = replace(listing(whole), others=(gone,))
    [one_away] = put_together([(WS1, without), (WS3, listing())])
    assert (one_away.copies, one_away.promised) == (1, 2)
    [alone] = put_together([(WS1, listing(run(kept(0, WS1))))])
    assert (alone.copies, alone.promised) == (1, 1)
    [nothing] = put_together([(WS1, listing(run(job(0, JobState.DONE))))])
    assert nothing.copies is None
