"""What a shim is told and what it says of the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.executor.ending import exit_code, explain
from dstack_agent.executor.task import Task

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(
    argv=st.lists(TEXT, max_size=4),
    env=st.dictionaries(TEXT, TEXT, max_size=4),
    locks=st.lists(TEXT, max_size=3),
    grace=st.floats(0, 1e6),
)
def test_a_task_arrives_as_it_was_told(
    argv: list[str], env: dict[str, str], locks: list[str], grace: float
) -> None:
    told = Task(argv, "/work", env, grace, 2.5, "/wake", locks, 1 << 30)
    heard = Task.decode(told.encode())
    for name in Task.__slots__:
        assert getattr(heard, name) == getattr(told, name)


def test_a_task_that_is_cut_anywhere_starts_nothing() -> None:
    whole = Task(["sh", "-c", "end"], "/work", {"END": "end"}).encode()
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="cut off"):
            Task.decode(whole[:size])


@pytest.mark.parametrize(("status", "code"), [(0, 0), (3 << 8, 3), (9, 137), (15, 143), (139, 139)])
def test_exit_codes_are_those_of_a_shell(status: int, code: int) -> None:
    assert exit_code(status) == code


@pytest.mark.parametrize(
    ("code", "ended_by", "memory", "reason", "words"),
    [
        (0, "", False, "", ""),
        (0, "", True, "", ""),
        (3, "", True, "", "exit code 3"),
        (137, "", True, "out-of-memory", "out of memory"),
        (137, "", False, "", "possibly out of memory"),
        (137, "aborted", True, "aborted", "aborted"),
        (127, "", False, "command-not-found", "not found"),
        (143, "stopped", False, "stopped", "stop"),
        (143, "", False, "", "SIGTERM"),
        (200, "", False, "", "exit code 200"),
    ],
)
def test_an_end_is_called_by_its_name(
    code: int, ended_by: str, memory: bool, reason: str, words: str
) -> None:
    said, cause = explain(code, ended_by, memory)
    assert said == reason
    assert words in cause
    assert bool(cause) == bool(words)
