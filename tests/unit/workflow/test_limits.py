"""How long a job may take, how often it is tried, what stays between runs."""

import pytest

from dstack_scheduler.retry import RETRY_EVENTS, Retry
from dstack_scheduler.workflow.checking import check
from dstack_scheduler.workflow.interpolation import Interpolator, Values
from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import Code, Report
from dstack_scheduler.workflow.scope import Scope
from support.workflow_files import project_of

HOUR = 3600.0


def read(line: str, variables: str = "") -> tuple[Workflow, list[Code]]:
    """A workflow with one more line, as it was understood, and what is wrong with it."""
    text = f"workflows:\n- name: x\n  provider: bash\n  commands: [a]\n  {line}\n"
    project = project_of(text, variables)
    report = Report(project.sources)
    scope = Scope(report, Interpolator(Values(project.sections.seen_by("x", {}))), "x")
    checked = check(project.workflows["x"], scope)
    return checked.workflow, [problem.code for problem in report.problems]


@pytest.mark.parametrize("key", ["max_duration", "idle_timeout"])
@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2 H", 7200), ("1d", 86400), ("off", 0)],
)
def test_spans_in_every_form(key: str, written: str, seconds: float) -> None:
    workflow, wrong = read(f"{key}: {written}")
    assert wrong == []
    assert getattr(workflow, f"{key}_seconds") == seconds


@pytest.mark.parametrize("written", ["3600", "0h", "soon", "2 years", "-1h"])
def test_a_span_without_a_unit_is_a_mistake(written: str) -> None:
    assert read(f"max_duration: {written}")[1] == [Code.BAD_SPAN]


@pytest.mark.parametrize(
    ("written", "retry"),
    [
        ("3", Retry(3)),
        ("'3'", Retry(3)),
        ("0", None),
        ("false", None),
        ("true", Retry()),
        ("on_lost", Retry(events=("lost",))),
        ("[error, on_lost]", Retry(events=("error", "lost"))),
        ("{attempts: 2, on_events: [no-capacity]}", Retry(2, ("no-capacity",))),
        ("{on: lost, duration: 1h}", Retry(3, ("lost",), HOUR)),
    ],
)
def test_retries_in_every_form(written: str, retry: Retry | None) -> None:
    workflow, wrong = read(f"retry: {written}")
    assert (workflow.retry, wrong) == (retry, [])


def test_a_retry_that_cannot_be_is_a_mistake() -> None:
    assert read("retry: 1000")[1] == [Code.BAD_NUMBER]
    assert read("retry: lots")[1] == [Code.BAD_NAME]
    assert read("retry: {times: 3}")[1] == [Code.UNKNOWN_KEY]
    assert Retry().events == RETRY_EVENTS


def test_variables_reach_limits_and_an_empty_one_says_nothing() -> None:
    variables = "variables: {x: {most: 2h, none: ''}}"
    assert read("max_duration: $most", variables)[0].max_duration_seconds == 2 * HOUR
    assert read("max_duration: $none", variables)[0].max_duration_seconds is None


def test_folders_that_stay_in_every_form() -> None:
    workflow, wrong = read("cache: [~/.cache/pip, {path: ./build/}, build, /opt/x]")
    assert (workflow.cache, wrong) == (("~/.cache/pip", "build", "/opt/x"), [])
    assert read("cache: [../x]")[1] == [Code.BAD_PATH]
    assert read("cache: [{path: x, mount: true}]")[1] == [Code.UNKNOWN_KEY]
