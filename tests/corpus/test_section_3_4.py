"""Section 3.4: the words for how a job stands."""

from dstack_scheduler.job import ENDED, JobState

WORDS = {state.value for state in JobState}


def test_3_4_1_states_of_the_first_year_are_words_of_ours() -> None:
    old = "SUBMITTED RUNNING STOPPING STOPPED ABORTING ABORTED FAILED DONE"
    assert {word.lower() for word in old.split()} <= WORDS


def test_3_4_2_preparing_is_a_state_and_no_capacity_is_waiting() -> None:
    assert {"preparing", "waiting"} <= WORDS


def test_3_4_3_downloading_is_preparing_and_uploading_is_saving() -> None:
    assert {"preparing", "saving"} <= WORDS


def test_3_4_4_pending_is_waiting_and_what_was_interrupted_is_lost() -> None:
    assert {"waiting", "lost"} <= WORDS


def test_3_4_5_states_that_are_final() -> None:
    final = {state.value for state in ENDED}
    assert {"stopped", "aborted", "failed", "done"} == final - {"lost"}
