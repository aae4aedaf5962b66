"""What people call runs and jobs."""

import re

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.ids import RunId
from dstack_scheduler.names import ADJECTIVES, ANIMALS, job_id, run_name


def test_there_are_64_words_of_each_kind_and_none_twice() -> None:
    assert len(ADJECTIVES) == len(ANIMALS) == 64
    assert len({*ADJECTIVES, *ANIMALS}) == 128
    assert all(re.fullmatch("[a-z]+", word) for word in (*ADJECTIVES, *ANIMALS))


@given(first=st.integers(0, 63), number=st.integers(1, 10**6))
def test_a_run_name_is_adjective_animal_number(first: int, number: int) -> None:
    name = run_name(lambda most: first % most, number)
    assert name == f"{ADJECTIVES[first]}-{ANIMALS[first]}-{number}"


def test_jobs_of_a_run_have_different_ids() -> None:
    assert job_id(RunId("0"), 0) != job_id(RunId("0"), 1)
