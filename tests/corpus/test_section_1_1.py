"""Section 1.1 of the map: files, where they are found, and that they are checked."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dstack_cli.commands.init import init
from dstack_scheduler.workflow.files import load_project
from dstack_scheduler.workflow.planning import find_problems
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.schema import schema
from support.workflow_files import codes_of, plan_of, project_of

BASH = "provider: bash, commands: [a]"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / ".dstack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_1_1_1_the_workflows_file_is_read_from_the_folder_and_from_no_other(tmp_path: Path) -> None:
    write(tmp_path, {"workflows.yaml": f"workflows: [{{name: x, {BASH}}}]"})
    assert list(load_project(tmp_path).workflows) == ["x"]
    below = tmp_path / "below"
    below.mkdir()
    assert load_project(below).workflows == {}


def test_1_1_2_every_file_of_the_folder_counts_in_order_and_a_name_only_once(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        {
            "workflows.yml": f"workflows: [{{name: a, {BASH}}}]",
            "workflows/z.yaml": f"workflows: [{{name: z, {BASH}}}]",
            "workflows/b.yml": f"workflows: [{{name: b, {BASH}}}]",
            "workflows/notes.txt": "nothing",
        },
    )
    project = load_project(tmp_path)
    assert list(project.workflows) == ["a", "b", "z"]
    assert find_problems(project) == ()
    write(tmp_path, {"workflows/c.yaml": f"workflows: [{{name: a, {BASH}}}]"})
    codes = [problem.code for problem in find_problems(load_project(tmp_path))]
    assert codes == [Code.DUPLICATE_WORKFLOW]


def test_1_1_3_variables_have_sections(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "workflows.yaml": "workflows: [{name: x, provider: bash, commands: [a $lr $n]}]",
            "variables.yaml": "variables: {global: {n: 3}, x: {lr: 1e-3}}",
        },
    )
    assert plan_of(load_project(tmp_path), "x").jobs[-1].commands == ("a 1e-3 3",)


IMAGE = "image: python:3.11, commands: [train], resources: {gpu: 1}"


@pytest.mark.parametrize(
    ("workflow", "templates"),
    [
        ("template: gpu", f"templates: [{{name: gpu, {IMAGE}}}]"),
        (f"template: {{{IMAGE}}}", ""),
        (
            "template: gpu, image: python:3.11",
            "templates: [{name: gpu, image: other, commands: [train], resources: {gpu: 1}}]",
        ),
    ],
)
def test_1_1_5_a_template_brings_what_the_workflow_does_not_say(
    tmp_path: Path, workflow: str, templates: str
) -> None:
    files = {"workflows.yaml": f"workflows: [{{name: x, {workflow}}}]"}
    write(tmp_path, files | ({"templates.yaml": templates} if templates else {}))
    job = plan_of(load_project(tmp_path), "x").jobs[-1]
    assert (job.image, job.commands, job.needs.gpus) == ("python:3.11", ("train",), 1)


@pytest.mark.parametrize(
    ("templates", "codes"),
    [
        ("templates: [{name: gpus, image: x}]", [Code.UNKNOWN_TEMPLATE, Code.MISSING_PROVIDER]),
        ("templates: [{image: x}]", None),
        ("templates: {gpu: {image: x}}", None),
        ("[a]", None),
    ],
)
def test_1_1_5_a_template_that_is_not_there_is_a_mistake(
    tmp_path: Path, templates: str, codes: list[Code] | None
) -> None:
    write(tmp_path, {"workflows.yaml": "workflows: [{name: x, template: gpu}]"})
    write(tmp_path, {"templates.yaml": templates})
    problems = find_problems(load_project(tmp_path))
    found = {problem.code for problem in problems}
    assert found >= set(codes or [Code.UNKNOWN_TEMPLATE])
    if codes:
        assert 'did you mean "gpus"?' in {problem.hint for problem in problems}
    else:
        assert len(found) == 3


def test_1_1_6_every_mistake_is_told_at_once_with_its_place() -> None:
    project = project_of(
        "workflows:\n  - name: x\n    provider: bash\n    comands: [a]\n    resources: {gpus: 1}\n"
        "  - name: y\n    provider: bsh\n    commands: [a]\n"
    )
    assert [(one.line, one.code) for one in find_problems(project)] == [
        (4, Code.UNKNOWN_KEY),
        (5, Code.UNKNOWN_KEY),
        (7, Code.UNKNOWN_PROVIDER),
    ]


def test_1_1_7_the_first_file_names_the_schema_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(init).exit_code == 0
    first, *_ = (tmp_path / ".dstack" / "workflows.yaml").read_text().splitlines()
    named = tmp_path / ".dstack" / first.partition("$schema=")[2]
    assert json.loads(named.read_text()) == schema()
    assert find_problems(load_project(tmp_path)) == ()
    named.write_text("an older one")
    assert CliRunner().invoke(init).exit_code != 0
    assert json.loads(named.read_text()) == schema()


def test_1_1_8_a_block_is_one_command_and_a_list_is_several() -> None:
    block = "workflows:\n- name: x\n  provider: bash\n  commands: |\n    a\n    b\n  setup: c\n"
    assert plan_of(project_of(block), "x").jobs[-1].commands == ("c", "a\nb")
    listed = "workflows:\n- name: x\n  provider: bash\n  commands: [a, b]\n"
    assert plan_of(project_of(listed), "x").jobs[-1].commands == ("a", "b")
    empty = "workflows:\n- name: x\n  provider: bash\n  commands: []\n"
    assert codes_of(project_of(empty), "x") == [Code.EMPTY]
