"""Projects from text, without files."""

from collections.abc import Sequence

from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.plan import Plan, PlannedJob
from dstack_scheduler.workflow.document import SourceFile
from dstack_scheduler.workflow.planning import plan
from dstack_scheduler.workflow.problem import Code, WorkflowProblems
from dstack_scheduler.workflow.project import Project, read_project

RUN_ID = RunId("01J0000000000000000000000A")


def project_of(workflows: str, variables: str = "", templates: str = "") -> Project:
    """A project with one file of workflows, one of variables and one of templates."""
    return read_project(
        [SourceFile(".dstack/workflows.yaml", workflows.encode())],
        [SourceFile(".dstack/variables.yaml", variables.encode())] if variables else [],
        [SourceFile(".dstack/templates.yaml", templates.encode())] if templates else [],
    )


def plan_of(project: Project, target: str, *args: str) -> Plan:
    """The plan of a command line as it would be typed."""
    return plan(project, target, args, run_name=RunName("calm-ibex-1"), run_id=RUN_ID)


def job_of(workflow: str, args: Sequence[str] = (), variables: str = "") -> PlannedJob:
    """The job of a workflow named x; the lines of its other keys are given."""
    lines = "".join(f"    {line}\n" for line in workflow.strip("\n").split("\n"))
    project = project_of(f"workflows:\n  - name: x\n{lines}", variables)
    return plan_of(project, "x", *args).jobs[-1]


def codes_of(project: Project, target: str, *args: str) -> list[Code]:
    """The codes of what is wrong with a command line; empty if nothing is."""
    try:
        plan_of(project, target, *args)
    except WorkflowProblems as problems:
        return [problem.code for problem in problems.problems]
    return []
