"""What paths of a job are where it does not start in its code."""

import pytest

from dstack_mesh.ids import Digest
from dstack_scheduler.agent_port import question_of
from dstack_scheduler.job import Input
from dstack_scheduler.job_paths import named, outside
from support.launches import spec_of


@pytest.mark.parametrize(
    ("path", "start", "is_named"),
    [
        ("out", "", "out"),
        ("out", "src", "out"),
        ("out", "/app", "/app/out"),
        (".", "/app", "/app"),
        ("../out", "/app/src", "/app/out"),
        ("~/out", "/app", "~/out"),
        ("/data", "/app", "/data"),
    ],
)
def test_a_relative_path_hangs_off_an_absolute_working_directory(
    path: str, start: str, is_named: str
) -> None:
    assert named(path, start) == is_named


def test_an_owner_is_asked_about_all_that_is_outside_of_the_code() -> None:
    assert outside(("out", "/data", "~/x", "/data"), "src") == ("/data", "~/x")
    assert outside(("out",), "/home/ana") == ("/home/ana", "/home/ana/out")
    inputs = (Input(Digest(bytes(32)), "in"),)
    spec = spec_of("x", working_dir="/srv", artifacts=("out",), inputs=inputs)
    assert question_of(spec).outside_paths == ("/srv", "/srv/out", "/srv/in")
