"""A question over the wire is the same question."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.ids import Digest, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.questions import (
    ask_from_wire,
    ask_to_wire,
    reserve_from_wire,
    reserve_to_wire,
)

KEY = JobKey(RunId("0" * 26), 1, 2)


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**63)), max_size=5))
def test_an_ask_says_which_inputs_and_how_large_they_are(inputs: list[tuple[bytes, int]]) -> None:
    question = Question(
        key=KEY,
        run_name=RunName(""),
        needs=Needs(gpus=1),
        executor=ExecutorKind.DOCKER,
        python="3.11",
        ssh=True,
        input_digests=tuple(Digest(digest) for digest, _ in inputs),
        input_sizes_bytes=tuple(size for _, size in inputs),
    )
    assert ask_from_wire(ask_to_wire(question)) == question


def test_what_is_held_is_what_was_asked_for() -> None:
    question = Question(
        KEY, RunName("calm-ibex-1"), Needs(), ExecutorKind.PROCESS, ports=2, ssh=True, meets=True
    )
    assert reserve_from_wire(reserve_to_wire(question, 3)) == (question, 3)
