"""How long the language takes: processor time, which other work on the machine does not change."""

import time
from pathlib import Path

from dstack_scheduler.workflow.files import load_project
from dstack_scheduler.workflow.planning import find_problems
from support.workflow_files import plan_of, project_of

COMMANDS = "commands: ['pip install -r r.txt', 'python t.py --lr $lr --n ${{ n }}']"
KEYS = (
    "env: [A=1, B=$lr], artifacts: [data, {path: ./model}], help: Trains the model,"
    " resources: {cpu: 2, memory: 16GB, gpu: {name: V100, count: 1}}"
)


def written(count: int) -> str:
    """Workflows of which each runs the one before first."""
    lines = [f"- {{name: w0, provider: bash, {COMMANDS}, {KEYS}}}"]
    for number in range(1, count):
        provider = "python, file: t.py" if number % 2 else f"bash, {COMMANDS}"
        link = f"depends-on: [w{number - 1}]"
        lines.append(f"- {{name: w{number}, provider: {provider}, {link}, {KEYS}}}")
    return "workflows:\n" + "\n".join(lines) + "\n"


def test_two_hundred_workflows_are_checked_in_a_fraction_of_a_second(tmp_path: Path) -> None:
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack" / "workflows.yaml").write_text(written(200))
    (tmp_path / ".dstack" / "variables.yaml").write_text("variables: {global: {lr: 1, n: 2}}")
    began = time.thread_time()
    assert find_problems(load_project(tmp_path)) == ()
    assert time.thread_time() - began < 0.25


def test_a_chain_of_five_hundred_jobs_is_planned_in_half_a_second() -> None:
    project = project_of(written(500), "variables: {global: {lr: 1, n: 2}}")
    began = time.thread_time()
    assert len(plan_of(project, "w499").jobs) == 500
    assert time.thread_time() - began < 0.5
