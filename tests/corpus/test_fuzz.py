"""Whatever is written: a value or a mistake, soon and in little memory, and never a traceback.

The check runs 2,000 cases in all, `DSTACK_CHAOS_ROUNDS=100000 pytest tests/corpus/test_fuzz.py` as
many as one likes.
"""

import resource
import shlex
import time
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_cli.misused import Misused
from dstack_cli.run_words import read
from dstack_scheduler.workflow.cards import Cards, parse_cards, parse_names
from dstack_scheduler.workflow.dependencies import read_dependency
from dstack_scheduler.workflow.document import read_tree
from dstack_scheduler.workflow.interpolation import Interpolator, Values
from dstack_scheduler.workflow.keys import COMMON
from dstack_scheduler.workflow.model import Dependency
from dstack_scheduler.workflow.planning import find_problems
from dstack_scheduler.workflow.problem import Place, Report, WorkflowProblems
from dstack_scheduler.workflow.ranges import Range, parse_count, parse_range
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.sizes import MOST_BYTES, parse_size
from dstack_scheduler.workflow.tree import ScalarNode
from dstack_scheduler.workflow.variables import read_sections
from support.rounds import rounds
from support.workflow_files import plan_of, project_of
from support.written import (
    print_cards,
    print_dependency,
    print_range,
    print_size,
    print_value,
    value_of,
)

CASES = rounds(2_000)
KINDS = 10
MOST_SECONDS = 0.05
MOST_BYTES_EACH = 64 << 20

fuzz = settings(
    max_examples=max(1, CASES // KINDS),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)

T = TypeVar("T")


def bounded(work: Callable[[], T]) -> T:
    """The result of a piece of work that must take little time and memory."""
    before = _peak_bytes()
    result, seconds = _timed(work)
    assert _peak_bytes() - before < MOST_BYTES_EACH
    tries = 1
    while seconds > MOST_SECONDS and tries < 3:  # the collector may have run in between
        seconds = min(seconds, _timed(work)[1])
        tries += 1
    assert seconds <= MOST_SECONDS, f"{seconds:.3f} s"
    return result


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.thread_time()
    return work(), time.thread_time() - began


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
shell_words = st.sampled_from(
    ["$a", "${{ a }}", "${{", "}}", "$$", "$", "\\$a", "${{ secrets.X }}", "$HOME", "a-b", "'", '"']
) | st.text("ab$ {}'\"\\.-_=\n", max_size=8)
shelled = st.lists(shell_words, max_size=8).map("".join)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,11}", fullmatch=True)
counts = st.integers(0, 10**6)
sizes = st.integers(0, MOST_BYTES)
keys = st.sampled_from(sorted([*COMMON, "commands", "file", "image", "ports", "gpu", "count", "x"]))
values = st.recursive(
    texts | shelled | st.sampled_from(["1", "0", "16GB", "2..4", "~", "true", "V100", "a:b", "y"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | texts, inner, max_size=4),
    max_leaves=8,
)
workflows = st.dictionaries(keys, values, max_size=6)
signs = st.sampled_from(
    [*"[]{}:,-?&*!|>'\"#%@`\n\t ~", "- ", ": ", "\n  ", "<<: *a", "&a ", "---\n"]
)
noise = st.lists(signs | texts | keys, max_size=40).map("".join)

GOOD = (
    "workflows:\n  - name: x\n    provider: bash\n    commands: [a, 'b $c']\n    deps: [y:v1]\n"
    "    resources: {gpu: 1, memory: 16GB}\n    artifacts: [{path: a}]\n    env: [A=1]\n"
)


@given(noise)
@fuzz
def test_any_text_is_a_project_or_mistakes(text: str) -> None:
    problems = bounded(lambda: find_problems(project_of(text, text, text)))
    assert all(problem.message for problem in problems)


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 9), signs | texts), max_size=4))
@fuzz
def test_a_good_file_that_was_damaged_is_a_project_or_mistakes(
    edits: list[tuple[int, int, str]],
) -> None:
    text = GOOD
    for at, length, put in edits:
        text = text[:at] + put + text[at + length :]
    for problem in bounded(lambda: find_problems(project_of(text))):
        assert problem.line <= len(text.splitlines()) + 2


@given(values)
@fuzz
def test_what_is_printed_is_read_again(value: str | list[str] | dict[str, str]) -> None:
    report = Report({})
    tree = bounded(lambda: read_tree("x", print_value(value), report))
    assert (report.problems, tree and value_of(tree)) == ([], value)


@given(st.lists(workflows, max_size=3), st.sampled_from(["x", "y"]))
@fuzz
def test_any_workflow_is_a_plan_or_mistakes(some: list[dict[str, str]], target: str) -> None:
    named = [{"name": name, **one} for name, one in zip("xyz", some, strict=False)]
    text = f"workflows: {print_value(named)}"

    def planned() -> object:
        try:
            return plan_of(project_of(text), target)
        except WorkflowProblems as wrong:
            return wrong.problems

    assert bounded(planned)


@given(st.dictionaries(names, texts, max_size=5), shelled)
@fuzz
def test_variables_are_put_in_as_they_were_written(variables: dict[str, str], text: str) -> None:
    interpolator = Interpolator(Values(variables))
    bounded(lambda: interpolator.put_into(text))
    for name, value in variables.items():
        assert interpolator.put_into(f"<${{{{ {name} }}}}>").text == f"<{value}>"
        assert interpolator.put_into(f"${name} ").text == f"{value} "
    report = Report({})
    tree = read_tree("x", print_value({"variables": {"x": variables}}), report)
    sections = read_sections([tree] if tree else [], report)
    dashless = {name.replace("-", "_") for name in variables}
    assert len(dashless) < len(variables) or sections.own("x") == variables


@given(texts, names, names, st.booleans(), st.booleans(), st.booleans())
@fuzz
def test_references_are_read_as_they_are_printed(
    text: str, workflow: str, tag: str, elsewhere: bool, tagged: bool, whole: bool
) -> None:
    def parsed(written: str) -> Dependency | None:
        scope = Scope(Report({}), Interpolator(Values()))
        return read_dependency(ScalarNode(Place(), written), scope, True)

    bounded(lambda: parsed(text))
    repo = "acme/corpora" if elsewhere else ""
    known = Dependency(Place(), "", workflow if whole or not tagged else "", tag, repo, True)
    known = known if tagged else Dependency(Place(), "", workflow, "", repo, True)
    written = print_dependency(known)
    found = parsed(written)
    assert found is not None
    assert (found.workflow, found.tag, found.repo) == (known.workflow, known.tag, known.repo)
    again = parsed(print_dependency(found))
    assert again == found


@given(texts | st.text("0123456789.kmgtib ", max_size=30), sizes)
@fuzz
def test_sizes_are_read_as_they_are_printed(text: str, size: int) -> None:
    found = bounded(lambda: parse_size(text))
    assert found is None or 0 <= found <= MOST_BYTES
    assert parse_size(print_size(size)) == size
    assert found is None or parse_size(print_size(found)) == found


@given(
    texts | st.text("0123456789.:,AVGB naid", max_size=30),
    st.none() | counts,
    st.none() | st.lists(st.sampled_from(["V100", "A10", "RTX 4090"]), min_size=1, max_size=3),
    st.none() | sizes,
    sizes,
)
@fuzz
def test_cards_are_read_as_they_are_printed(
    text: str, number: int | None, models: list[str] | None, least: int | None, most: int
) -> None:
    bounded(lambda: (parse_cards(text), parse_names(text), parse_range(text, parse_count)))
    cards = Cards(
        None if number is None else Range(number),
        None if models is None else ",".join(dict.fromkeys(models)),
        None if least is None else Range(least, most if most >= least else 0),
    )
    if cards != Cards():
        assert parse_cards(print_cards(cards)) == cards
    if number is not None:
        assert parse_range(print_range(Range(number)), parse_count) == Range(number)


words = (
    st.sampled_from(
        ["--", "-", "-d", "--gpu", "--gpu=1", "--dep", ":v1", "-e", "A=1", "--n", "--t"]
    )
    | texts
    | st.text("-=ab1", max_size=6)
)


@given(st.lists(words, max_size=8), st.sampled_from(["x", "python", "bash", "docker", "nobody"]))
@fuzz
def test_any_command_line_is_a_plan_or_mistakes(line: list[str], target: str) -> None:
    project = project_of(GOOD, "variables: {x: {c: 1, t: 2}, global: {n: 3}}")

    def planned() -> object:
        try:
            return plan_of(project, target, *read([target, *line]).words)
        except (WorkflowProblems, Misused) as wrong:
            return wrong

    assert bounded(planned)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
@fuzz
def test_words_of_a_script_reach_it_as_they_were_typed(line: list[str]) -> None:
    project = project_of("workflows: []")
    (job,) = bounded(lambda: plan_of(project, "python", "t.py", "--", *line)).jobs
    assert shlex.split(job.commands[-1]) == ["python", "t.py", *line]


def test_work_that_takes_too_long_or_too_much_would_be_found() -> None:
    """The negative control of all tests above."""

    def slow() -> None:
        until = time.thread_time() + 2 * MOST_SECONDS
        while time.thread_time() < until:
            pass

    with pytest.raises(AssertionError, match=r"0\.1"):
        bounded(slow)
    with pytest.raises(AssertionError):
        bounded(lambda: bytearray(_peak_bytes() + (96 << 20)))
