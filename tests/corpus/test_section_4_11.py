"""Section 4.11 of the map, and the keys for it: several nodes."""

from dstack_scheduler.job import MOST_NODES
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, plan_of, project_of

TRAIN = "- {name: train, provider: torchrun, file: a.py, artifacts: [out], resources: {gpu: 4}%s}\n"
REPORT = "- {name: report, provider: bash, commands: [a], depends-on: [train]}\n"


def test_1_2_14_nodes_are_a_key_and_1_5_11_one_of_resources() -> None:
    for text in ("nodes: 2, resources: {gpu: 1}", "resources: {gpu: 1, nodes: 2}"):
        project = project_of(f"workflows: [{{name: x, provider: bash, commands: [a], {text}}}]")
        assert len(plan_of(project, "x").jobs) == 2


def test_1_5_11_nodes_below_resources() -> None:
    for wrong in ("0", str(MOST_NODES + 1), "many"):
        resources = f"resources: {{nodes: {wrong}}}"
        text = f"workflows: [{{name: x, provider: bash, commands: [a], {resources}}}]"
        assert codes_of(project_of(text), "x") == [Code.BAD_NUMBER]


def test_1_2_15_training_script() -> None:
    text = "workflows: [{name: x, provider: torchrun, training_script: a.py}]"
    assert plan_of(project_of(text), "x").jobs[0].commands[-1].endswith(" a.py")


def test_4_11_1_rank_0_comes_first_and_who_needs_the_gang_needs_it() -> None:
    jobs = plan_of(project_of(f"workflows:\n{TRAIN % ', nodes: 3'}{REPORT}"), "report").jobs
    assert [job.node.rank for job in jobs[:3] if job.node] == [0, 1, 2]
    assert jobs[3].after == (0,)


def test_4_11_2_each_node_gets_all_resources() -> None:
    jobs = plan_of(project_of(f"workflows:\n{TRAIN % ', nodes: 2'}"), "train").jobs
    assert [job.needs.gpus for job in jobs] == [4, 4]


def test_4_11_3_artifacts_of_the_first_node_alone() -> None:
    jobs = plan_of(project_of(f"workflows:\n{TRAIN % ', nodes: 2'}"), "train").jobs
    assert [job.artifacts for job in jobs] == [("out",), ()]


def test_trap_25_only_the_masters_artifacts_are_laid_into_who_depends_on_them() -> None:
    jobs = plan_of(project_of(f"workflows:\n{TRAIN % ', nodes: 2'}{REPORT}"), "report").jobs
    assert [job.artifacts for job in jobs if job.index in jobs[2].after] == [("out",)]


def test_4_11_nodes_may_be_containers() -> None:
    project = project_of("workflows: [{name: x, image: alpine, commands: [a], nodes: 2}]")
    jobs = plan_of(project, "x").jobs
    assert [(job.image, job.node and job.node.count) for job in jobs] == [("alpine", 2)] * 2


def test_4_11_torchrun_trains_in_processes() -> None:
    """Gloo and NCCL connect every node with every other one; a container has one port for that."""
    project = project_of("workflows: [{name: x, provider: torchrun, file: a.py, image: alpine}]")
    assert codes_of(project, "x") == [Code.UNKNOWN_KEY]
