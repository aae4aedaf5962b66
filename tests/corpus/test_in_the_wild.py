"""Odd things that people really wrote: each is one mistake, and its hint says what to write."""

import pytest

from dstack_scheduler.workflow.planning import find_problems
from support.workflow_files import project_of

LINES = """
output: [x] -> did you mean "artifacts"?
artifiacts: [x] -> did you mean "artifacts"?
image_name: x -> known are:
triggers: [y] -> did you mean "depends-on"?
deps: {workflow: y} -> write deps: [prepare]
deps: y -> write deps: [prepare]
depends-on: y -> write depends-on: [prepare]
depends-on: ['y: v1'] -> write prepare, prepare:v1
artifacts: x -> write artifacts: [data]
artifacts: [~] -> give it a value or remove the line
resources: {GPU: 1} -> did you mean "gpu"?
resources: {gpu: {model: V100}} -> did you mean "name"?
resources: {memory: 16} -> as 16GB
python: 2.7 -> choose one of 3.7
python: '>=3.8' -> choose one of 3.7
env: [{A: 1}] -> write A=1, or make env: a mapping without dashes
env: A=1 -> write env: [NAME=value]
ports: port 6006 -> write a number
ports: -> give it a value or remove the line
command: a -> did you mean "commands"?
cmd: a -> did you mean "commands"?
script: x.py -> it belongs to
"""
PROVIDERS = """
python3.9 -> write provider: python and python: "3.9"
python==3.8 -> write provider: python and python: "3.8"
jupyterlab -> did you mean "lab"?
jupyter -> did you mean "notebook"?
vscode -> did you mean "code"?
train-mnist -> known are: bash
"""
ROOTS = """
steps: [a] -> known are: workflows
variables: {x: {a: 1}} -> put variables into .dstack/variables.yaml
templates: [a] -> put templates into .dstack/templates.yaml
workflow: [] -> did you mean "workflows"?
"""


def cases(lines: str) -> list[tuple[str, str]]:
    parted = (line.partition(" -> ") for line in lines.strip().splitlines())
    return [(written, hint) for written, _, hint in parted]


def hints(text: str) -> list[str]:
    return [problem.hint for problem in find_problems(project_of(text))]


@pytest.mark.parametrize(("line", "hint"), cases(LINES))
def test_an_odd_line_is_one_mistake_with_the_way_out(line: str, hint: str) -> None:
    text = f"workflows:\n- name: x\n  provider: bash\n  commands: [a]\n  {line}\n"
    (said,) = hints(f"{text}- {{name: y, provider: bash, commands: [a]}}\n")
    assert hint in said


@pytest.mark.parametrize(("provider", "hint"), cases(PROVIDERS))
def test_an_odd_provider_is_one_mistake_with_the_way_out(provider: str, hint: str) -> None:
    text = f"workflows:\n- name: x\n  provider: {provider}\n  commands: [a]\n"
    (said,) = hints(text)
    assert hint in said


@pytest.mark.parametrize(("root", "hint"), cases(ROOTS))
def test_an_odd_file_is_one_mistake_with_the_way_out(root: str, hint: str) -> None:
    (said,) = hints(root)
    assert hint in said
