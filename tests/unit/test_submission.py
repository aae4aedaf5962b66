"""Where the jobs of a run may go: the command line first, then the workflow."""

from dataclasses import replace

import pytest

from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.submission import HandOver
from support.submissions import planned, submission

HERE = PeerId("h" * 32)


@pytest.mark.parametrize(
    ("flag", "said", "used"),
    [
        ("", "", ""),
        ("", "local", "local"),
        ("", "remote", "remote"),
        ("local", "remote", "local"),
        ("ws-2", "local", "ws-2"),
    ],
)
def test_a_flag_comes_before_what_the_workflow_says(flag: str, said: str, used: str) -> None:
    free, bound = planned(0), replace(planned(1), place=said)
    made = submission(free, bound, placement=flag)
    assert [job.placement for job in made.jobs] == [flag, used]


def test_a_driver_elsewhere_is_told_which_machine_is_this_one() -> None:
    placements = ("local", "remote", "", "ws-2")
    made = submission(*(replace(planned(n), place=word) for n, word in enumerate(placements)))
    handed = HandOver(made.record, made.jobs, 2, Digest(b"c" * 32))
    told = handed.seen_elsewhere(HERE)
    assert [job.placement for job in told.jobs] == [HERE, f"not:{HERE}", "", "ws-2"]
