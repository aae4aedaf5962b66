"""Projects in folders: which files are read, and that anything in them is a plan or problems."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_scheduler.workflow.files import load_project
from dstack_scheduler.workflow.planning import find_problems
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, plan_of, project_of

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
ONE = "workflows: [{{name: {0}, provider: bash, commands: [echo {0}]}}]"


def write(root: Path, name: str, text: str) -> None:
    path = root / ".dstack" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_all_files_of_the_folder_are_read_in_order_of_name(tmp_path: Path) -> None:
    for name in ("workflows/b.yaml", "workflows/a.yml", "workflows.yaml", "workflows/no.txt"):
        write(tmp_path, name, ONE.format(Path(name).stem))
    write(tmp_path, "variables.yml", "variables: {a: {v: 1}}")
    project = load_project(tmp_path)
    assert list(project.workflows) == ["workflows", "a", "b"]
    assert plan_of(project, "a").jobs[0].variables == {"v": "1"}


def test_a_folder_without_files_has_no_workflows(tmp_path: Path) -> None:
    project = load_project(tmp_path)
    assert not project.workflows
    assert find_problems(project) == ()
    assert codes_of(project, "train") == [Code.UNKNOWN_WORKFLOW]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".dstack" / "workflows.yaml").mkdir(parents=True)
    (tmp_path / ".dstack" / "variables.yaml").symlink_to("nowhere")
    codes = [problem.code for problem in find_problems(load_project(tmp_path))]
    assert codes == [Code.UNREADABLE, Code.UNREADABLE]


def test_a_broken_file_hides_no_mistake_of_another_and_makes_none_up(tmp_path: Path) -> None:
    write(tmp_path, "workflows.yaml", "workflows: [")
    write(
        tmp_path,
        "workflows/b.yaml",
        "workflows: [{name: x, provider: bash, commands: [a], deps: [maybe], bad: 1}]",
    )
    project = load_project(tmp_path)
    assert [problem.code for problem in find_problems(project)] == [Code.SYNTAX, Code.UNKNOWN_KEY]
    assert codes_of(project, "maybe") == [Code.SYNTAX, Code.UNKNOWN_KEY]


def test_problems_of_one_workflow_leave_out_those_of_others() -> None:
    project = project_of(
        "workflows:\n"
        "  - {name: a, provider: bash, commands: [a], bad: 1}\n"
        "  - {name: b, provider: bash, commands: [b], depends-on: [c]}\n"
        "  - {name: c, provider: bash, commands: [c], worse: 1}\n"
    )
    assert [problem.line for problem in find_problems(project, "b")] == [4]
    assert [problem.line for problem in find_problems(project)] == [2, 4]
    assert [problem.code for problem in find_problems(project, "d")] == [Code.UNKNOWN_WORKFLOW]


def test_the_example_has_two_jobs_and_takes_its_variables() -> None:
    project = load_project(DIGITS)
    assert find_problems(project) == ()
    plan = plan_of(project, "train", "--epochs", "3", "--lr", "0.00002")
    assert [job.commands for job in plan.jobs] == [
        ("python prepare.py",),
        ("python train.py --epochs 3 --lr 0.00002",),
    ]


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; import dstack_scheduler.workflow.files, dstack_scheduler.workflow.planning;"
        "print(*sys.modules)"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    heavy = {"asyncio", "click", "difflib", "grpc", "pydantic", "rich", "subprocess", "sqlite3"}
    assert not heavy & set(done.stdout.split())


SCALARS = st.sampled_from(
    ["", "x", "y", "16GB", "v1", ":v1", "a/b/c", "$v", "${{ v }}", "${{ w }}", "../x", "3.10", "~"]
) | (st.integers(-2, 5) | st.booleans() | st.none())
KEYS = st.sampled_from(
    [
        "name", "provider", "image", "commands", "file", "args", "env", "artifacts", "deps",
        "depends-on", "resources", "gpu", "cpu", "memory", "count", "python", "ports", "nodes",
        "path", "tag", "workflow", "workflows", "repo", "include", "entrypoint", "v100/gpu", "<<",
    ]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
WORKFLOW = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | VALUES,
        "provider": st.sampled_from(["bash", "python", "docker", "lab"]) | VALUES,
        **{
            key: VALUES
            for key in ("commands", "file", "image", "env", "artifacts", "deps", "resources", "gpu")
        },
        **{
            key: VALUES for key in ("depends-on", "ports", "python", "working_dir", "args", "setup")
        },
    },
)


@settings(max_examples=300, deadline=None)
@given(
    workflows=st.lists(WORKFLOW | VALUES, max_size=4) | VALUES,
    variables=st.dictionaries(st.sampled_from(["x", "global"]), VALUES, max_size=2) | VALUES,
)
def test_any_yaml_is_a_plan_or_problems(workflows: object, variables: object) -> None:
    project = project_of(
        yaml.safe_dump({"workflows": workflows}), yaml.safe_dump({"variables": variables})
    )
    problems = find_problems(project)
    for problem in problems:
        assert problem.message
        assert problem.hint
        assert problem.line > 0
    for target in ("x", "y", "bash"):
        codes_of(project, target, "--v", "1")


EXAMPLES = {
    "000": (
        """workflows:
  - name: mnist-data
    provider: bash
    commands:
      - pip install torchvision
      - python mnist/mnist_data.py
    artifacts:
      - path: ./data

  - name: train-mnist
    provider: bash
    deps:
      - workflow: mnist-data
    commands:
      - pip install torchvision pytorch-lightning tensorboard
      - python mnist/train_mnist.py
    artifacts:
      - path: ./lightning_logs
""",
        "",
        [("train-mnist", ()), ("mnist-data", ())],
    ),
    "002": (
        """workflows:
  - name: prepare
    provider: python
    file: "prepare.py"
    artifacts: ["data"]

  - name: train
    depends-on:
      - prepare:latest
    provider: python
    file: "train.py"
    artifacts: ["checkpoint"]
    resources:
      gpu: 4

  - name: app
    depends-on:
      - train:latest
    provider: streamlit
    target: "app.py"
""",
        "",
        [("prepare", ()), ("train", ("--epoch", "100", "--seed", "2", "--batch-size", "128"))],
    ),
    "004": (
        """workflows:
  - name: prepare
    image: tensorflow/tensorflow:latest-gpu
    commands:
      - python3 prepare.py
    artifacts:
      - data
    resources:
      v100/gpu: $gpu

  - name: train
    image: tensorflow/tensorflow:latest-gpu
    commands:
      - python3 train.py
    artifacts:
      - checkpoint
    dependencies:
      - prepare:latest
    resources:
      v100/gpu: $gpu
""",
        "variables:\n  prepare:\n    gpu: 1\n\n  train:\n    gpu: 1\n",
        [("prepare", ("--gpu", "4")), ("train", ())],
    ),
}
"""The examples of the documents that have any, and the command lines that they show."""


@pytest.mark.parametrize("number", EXAMPLES)
def test_the_documents_own_examples_are_plans(number: str) -> None:
    workflows, variables, lines = EXAMPLES[number]
    project = project_of(workflows, variables)
    for target, args in lines:
        assert len(plan_of(project, target, *args).jobs) == 1


def test_the_documents_examples_mean_what_the_documents_say() -> None:
    plans = {
        number: [plan_of(project_of(workflows, variables), t, *args).jobs[0] for t, args in lines]
        for number, (workflows, variables, lines) in EXAMPLES.items()
    }
    assert plans["000"][0].artifacts == ("lightning_logs",)
    assert plans["000"][0].reuses[0].workflow == "mnist-data"
    assert plans["002"][1].commands == ("python train.py --epoch 100 --seed 2 --batch-size 128",)
    assert plans["002"][1].reuses[0].tag == "latest"
    assert [job.needs.gpus for job in plans["004"]] == [4, 1]
    assert plans["004"][0].needs.gpu_name == "v100"
    assert plans["004"][1].reuses[0].workflow == "prepare"
