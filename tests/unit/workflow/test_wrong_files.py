"""Wrong files as data: each of `wrong/*.txt` holds files and the problems that they must give.

A line `=== NAME` begins another file, `=== problems` the expected list: `FILE:LINE:COLUMN CODE`.
"""

from pathlib import Path

import pytest

from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.workflow.files import load_project
from dstack_scheduler.workflow.planning import find_problems, plan
from dstack_scheduler.workflow.problem import Code, Problem, WorkflowProblems

CASES = sorted((Path(__file__).parent / "wrong").glob("*.txt"))


def lay_out(case: Path, root: Path) -> list[str]:
    """Writes the files of a case below a folder and gives back the expected problems."""
    name, expected = ".dstack/workflows.yaml", list[str]()
    files: dict[str, list[str]] = {name: []}
    for line in case.read_text().splitlines(keepends=True):
        if line.startswith("=== "):
            name = line[4:].strip()
            files[name] = []
        else:
            files[name].append(line)
    expected = [line.strip() for line in files.pop("problems", [])]
    for path, lines in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("".join(lines))
    return expected


def shown(problem: Problem) -> str:
    return f"{problem.file}:{problem.line}:{problem.column} {problem.code}"


def test_the_corpus_is_not_empty() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_mistake_is_found_at_its_place(case: Path, tmp_path: Path) -> None:
    expected = lay_out(case, tmp_path)
    problems = find_problems(load_project(tmp_path))
    assert [shown(problem) for problem in problems] == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_problem_says_what_and_how_to_fix_it(case: Path, tmp_path: Path) -> None:
    lay_out(case, tmp_path)
    for problem in find_problems(load_project(tmp_path)):
        assert problem.message.endswith("."), problem
        assert problem.hint, problem
        assert len(problem.message) < 200, problem
        text = (tmp_path / problem.file).read_text().splitlines()
        assert problem.source == text[problem.line - 1]
        assert problem.column <= len(problem.source) + 1
        assert problem.column + problem.length <= len(problem.source) + 2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_nothing_is_planned_while_a_file_is_wrong(case: Path, tmp_path: Path) -> None:
    lay_out(case, tmp_path)
    project = load_project(tmp_path)
    codes = {problem.code for problem in find_problems(project)}
    try:
        plan(project, "bash", ["-c", "true"], run_name=RunName("a-b-1"), run_id=RunId("0"))
    except WorkflowProblems as problems:
        assert problems.hint
        assert {problem.code for problem in problems.problems} == codes - {Code.NOT_SUPPORTED_YET}
    else:
        # What is not supported yet stops only the workflow that has it.
        assert codes == {Code.NOT_SUPPORTED_YET}
