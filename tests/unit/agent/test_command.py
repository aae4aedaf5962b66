"""What the daemon says at its end."""

import pytest

from dstack_agent.command import report


def test_a_bug_is_told_by_the_error_that_a_task_group_wrapped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrapped = ExceptionGroup("unhandled", [RuntimeError("can't start new thread")])
    assert report(ExceptionGroup("unhandled", [wrapped]), as_json=False) == 70
    assert "has a bug: RuntimeError: can't start new thread" in capsys.readouterr().err
