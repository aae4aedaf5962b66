"""Section 1.7 of the map: own providers."""

import pytest

from dstack_scheduler.growing import grown
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.own import FOLDER
from dstack_scheduler.workflow.document import SourceFile
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.project import Project, read_project
from support.submissions import submission
from support.workflow_files import codes_of, plan_of, project_of

SWEEP = "- {name: sweep, image: 'python:3.11', commands: [python sweep.py]}\n"
WORKFLOWS = """workflows:
- {name: grid, provider: sweep, values: [$lr, 2], flags: {deep: true}, artifacts: [out],
   resources: {gpu: 4}}
"""


def own(providers: str = SWEEP, workflows: str = WORKFLOWS) -> Project:
    return read_project(
        [SourceFile("workflows.yaml", workflows.encode())],
        [SourceFile("variables.yaml", b"variables: {grid: {lr: 0.1}}")],
        providers=[SourceFile("providers.yaml", f"providers:\n{providers}".encode())],
    )


def maker() -> PlannedJob:
    return plan_of(own(), "grid", "--deep", "3").jobs[-1]


def test_1_7_1_an_image_with_commands_makes_the_jobs_of_a_workflow() -> None:
    job = maker()
    assert (job.image, job.commands[-1], job.makes) == ("python:3.11", "python sweep.py", "grid")
    assert (job.artifacts, job.needs.gpus) == ((FOLDER,), 0)
    process = own("- {name: sweep, commands: [./sweep]}\n")
    assert plan_of(process, "sweep").jobs[-1].image == ""


@pytest.mark.parametrize(
    "wrong",
    [
        "- {commands: [a]}\n",
        "- {name: sweep}\n",
        "- {name: sweep, commands: [a], comands: [b]}\n",
        "- {name: bash, commands: [a]}\n",
        f"{SWEEP}{SWEEP}",
        "- sweep\n",
    ],
)
def test_1_7_1_every_mistake_in_the_file_is_told(wrong: str) -> None:
    assert len(codes_of(own(wrong, "workflows: []"), "bash", "-c", "a")) == 1


def test_1_7_2_the_program_finds_the_workflow_beside_it() -> None:
    laid = maker().commands[0]
    assert '"values": ["0.1", "2"]' in laid
    assert '"flags": {"deep": "true"}' in laid
    assert '"provider_args": ["--deep", "3"]' in laid
    assert "REPO_PATH" in laid and "workflow.yaml" in laid


def test_1_7_3_what_it_writes_becomes_jobs_of_the_run() -> None:
    run = submission(maker()).jobs
    text = b"workflows: [{name: a, image: alpine, commands: [b], artifacts: [out]}]"
    (made,) = grown(run, 0, text)[1:]
    assert (made.spec.image, made.spec.commands, made.spec.workflow) == ("alpine", ("b",), "grid")


def test_1_7_4_python_programs_have_classes_for_it() -> None:
    laid = maker().commands[0]
    for name in ("Provider", "Job", "Resources", "Gpu", "App"):
        assert f"class {name}" in laid
    assert "dstack.py" in laid and "PYTHONPATH" in laid


@pytest.mark.parametrize(
    "provider", ["{repo: 'https://git.example/tools.git', name: dvc}", "dvc@feature-x", "bash@v1"]
)
def test_1_7_5_one_of_another_repository_is_refused_with_what_to_do(provider: str) -> None:
    project = project_of(f"workflows:\n- {{name: x, provider: {provider}, commands: [a]}}\n")
    assert Code.NOT_SUPPORTED_YET in codes_of(project, "x")


def test_1_1_4_the_file_of_own_providers_has_a_list_of_them() -> None:
    assert set(own().providers) == {"sweep"}
    assert "grid" in own().workflows
