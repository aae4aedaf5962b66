"""Tags and newest runs, from what many agents say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Missing, Refused
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    Revision,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.plan import Reuse
from dstack_scheduler.resolve import merged_runs, merged_tags, resolve

REPO = "github.com/lab/digits"
AT = datetime(2026, 11, 20, tzinfo=UTC)


def run_id(number: int) -> RunId:
    return RunId(f"{number:026d}")


def run(
    number: int,
    *workflows: str,
    state: JobState = JobState.DONE,
    minutes: int = 0,
    repo: str = REPO,
    complete: bool = True,
) -> RunRecord:
    jobs = tuple(
        JobRecord(
            key := JobKey(run_id(number), index),
            name,
            "bash",
            StateChange(key, state, AT),
            PeerId("a" * 32),
            artifacts=(
                ArtifactSaved(
                    key, f"{name}-out", Digest(bytes([number, index]) * 16), 1, 10, complete
                ),
            ),
        )
        for index, name in enumerate(workflows)
    )
    return RunRecord(
        run_id(number),
        RunName(f"calm-ibex-{number}"),
        workflows[-1],
        "ana@laptop",
        AT + timedelta(minutes=minutes),
        len(jobs),
        Revision(repo=repo),
        jobs=jobs,
    )


def tag(name: str, number: int | None, minutes: int = 0, repo: str = REPO) -> TagRecord:
    chosen = None if number is None else run_id(number)
    return TagRecord(repo, name, chosen, f"calm-ibex-{number}", AT + timedelta(minutes=minutes))


def listing(*records: RunRecord | TagRecord) -> Listing:
    runs = tuple(record for record in records if isinstance(record, RunRecord))
    return Listing(runs, tuple(record for record in records if isinstance(record, TagRecord)))


def origins(reuse: Reuse, *listings: Listing) -> list[str]:
    return [each.origin for each in resolve(reuse, REPO, listings)]


@pytest.mark.parametrize(
    "going_on",
    [
        run(1, "train", state=JobState.RUNNING, complete=False),
        run(1, "prepare", "train", state=JobState.PREPARING, complete=False),
        replace(run(1, "train"), jobs=()),
    ],
)
def test_a_tag_of_a_run_that_goes_on_is_refused_in_words(going_on: RunRecord) -> None:
    known = listing(going_on, tag("v1", 1))
    for reuse in (Reuse(tag="v1"), Reuse(workflow="train", tag="v1"), Reuse(run="calm-ibex-1")):
        with pytest.raises(Refused, match="calm-ibex-1, which goes on") as told:
            resolve(reuse, REPO, [known])
        assert told.value.code == "not-done-yet" and "dstack wait" in told.value.hint
    assert origins(Reuse(tag="v1"), listing(run(1, "train"), tag("v1", 1))) != []


def test_what_is_to_be_tried_again_goes_on() -> None:
    failed = run(1, "train", state=JobState.FAILED, complete=False)
    again = replace(failed, jobs=tuple(replace(job, again=True) for job in failed.jobs))
    with pytest.raises(Refused, match="goes on"):
        resolve(Reuse(tag="v1"), REPO, [listing(again, tag("v1", 1))])
    with pytest.raises(Missing, match="kept no artifacts"):
        resolve(Reuse(tag="v1"), REPO, [listing(failed, tag("v1", 1))])


def test_the_newest_done_run_of_a_workflow_is_taken() -> None:
    known = listing(run(1, "prepare"), run(2, "prepare", minutes=5), run(3, "train", minutes=9))

    assert origins(Reuse(workflow="prepare"), known) == ["calm-ibex-2 (prepare)"]


def test_a_failed_run_does_not_count() -> None:
    known = listing(run(1, "prepare"), run(2, "prepare", state=JobState.FAILED, minutes=5))

    assert origins(Reuse(workflow="prepare"), known) == ["calm-ibex-1 (prepare)"]


def test_a_done_job_of_a_chain_counts_even_if_a_later_job_failed() -> None:
    chain = run(2, "prepare", "train", minutes=5)
    known = listing(run(1, "prepare"), chain)

    assert origins(Reuse(workflow="prepare"), known) == ["calm-ibex-2 (prepare)"]


def test_another_repository_is_another_world() -> None:
    known = listing(run(1, "prepare"), run(2, "prepare", minutes=5, repo="github.com/lab/other"))
    elsewhere = Reuse(workflow="prepare", repo="github.com/lab/other")

    assert origins(Reuse(workflow="prepare"), known) == ["calm-ibex-1 (prepare)"]
    assert origins(elsewhere, known) == ["calm-ibex-2 (prepare)"]


def test_a_tag_beats_the_newest_run() -> None:
    known = listing(run(1, "prepare"), run(2, "prepare", minutes=5), tag("v1", 1))

    assert origins(Reuse(workflow="prepare", tag="v1"), known) == ["calm-ibex-1 (prepare)"]


def test_a_tag_without_a_workflow_takes_what_was_asked_for() -> None:
    known = listing(run(1, "prepare", "train"), tag("v1", 1))

    assert origins(Reuse(tag="v1"), known) == ["calm-ibex-1 (train)"]


def test_latest_is_the_tag_of_that_name_or_else_the_newest_run() -> None:
    runs = run(1, "prepare"), run(2, "prepare", minutes=5)
    latest = Reuse(workflow="prepare", tag="latest")

    assert origins(latest, listing(*runs)) == ["calm-ibex-2 (prepare)"]
    assert origins(latest, listing(*runs, tag("latest", 1))) == ["calm-ibex-1 (prepare)"]


def test_a_tag_that_was_taken_back_is_gone() -> None:
    known = listing(run(1, "prepare"), tag("v1", 1), tag("v1", None, minutes=1), tag("v2", 1))

    with pytest.raises(Missing) as missing:
        resolve(Reuse(workflow="prepare", tag="v1", text="prepare:v1"), REPO, [known])

    assert "prepare:v1" in missing.value.what
    assert "v2" in missing.value.why


def test_nothing_to_reuse_says_what_there_is_and_how_to_make_it() -> None:
    with pytest.raises(Missing) as missing:
        resolve(Reuse(workflow="prepare"), REPO, [listing(run(1, "train"))])

    assert "train" in missing.value.why
    assert missing.value.hint == "Run it first: dstack run prepare"


def test_a_run_that_kept_nothing_is_no_input() -> None:
    with pytest.raises(Missing) as missing:
        resolve(Reuse(workflow="prepare"), REPO, [listing(run(1, "prepare", complete=False))])

    assert missing.value.code == "no-artifacts"


def test_inputs_name_who_has_them() -> None:
    (found,) = resolve(Reuse(workflow="prepare"), REPO, [listing(run(1, "prepare"))])

    assert found.sources == (Source(PeerId("a" * 32)),)
    assert (found.path, found.size_bytes) == ("prepare-out", 10)


@given(
    st.lists(
        st.tuples(st.sampled_from(["v1", "v2"]), st.none() | st.integers(1, 5), st.integers(0, 3)),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_peers_that_heard_the_same_tags_in_any_order_agree(
    said: list[tuple[str, int | None, int]], shuffler: Random
) -> None:
    tags = [tag(name, number, minutes) for name, number, minutes in said]
    shuffled = list(tags)
    shuffler.shuffle(shuffled)

    one, other = merged_tags([listing(*tags)]), merged_tags([listing(each) for each in shuffled])

    assert {k: v.run_id for k, v in one.items()} == {k: v.run_id for k, v in other.items()}


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(list(JobState)), st.integers(0, 2)), max_size=8
    ),
    st.randoms(use_true_random=False),
)
def test_peers_that_heard_of_the_same_runs_in_any_order_agree(
    said: list[tuple[int, JobState, int]], shuffler: Random
) -> None:
    runs = [run(number, *["a", "b"][: 1 + parts % 2], state=state) for number, state, parts in said]
    shuffled = list(runs)
    shuffler.shuffle(shuffled)

    one, other = merged_runs([listing(*runs)]), merged_runs([listing(each) for each in shuffled])

    assert one == other


def test_a_run_is_taken_by_its_name_whatever_became_of_it_and_laid_below_a_folder() -> None:
    known = [listing(run(1, "prepare", "train", state=JobState.FAILED), run(2, "train"))]
    found = resolve(Reuse(run="calm-ibex-1", below="runs/calm-ibex-1"), REPO, known)
    assert [each.path for each in found] == [
        "runs/calm-ibex-1/prepare-out",
        "runs/calm-ibex-1/train-out",
    ]
    with pytest.raises(Missing, match="calm-ibex-9"):
        resolve(Reuse(run="calm-ibex-9"), REPO, known)
