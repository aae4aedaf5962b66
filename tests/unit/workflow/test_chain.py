"""Chains of workflows: which jobs a run has, in which order, with whose variables."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_scheduler.names import job_id
from dstack_scheduler.workflow.planning import find_problems
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import RUN_ID, plan_of, project_of

DIAMOND = """workflows:
  - {name: train, provider: bash, commands: [t], depends-on: [left, right, "data:v1"], deps: [old]}
  - {name: right, provider: bash, commands: [r], depends-on: [prepare]}
  - {name: left, provider: bash, commands: [l], depends-on: [prepare], resources: {gpu: 1}}
  - {name: prepare, provider: bash, commands: [p]}
  - {name: old, provider: bash, commands: [o]}
"""


def test_a_diamond_has_each_workflow_once_and_ancestors_first() -> None:
    plan = plan_of(project_of(DIAMOND), "train")
    assert [(job.index, job.workflow, job.after) for job in plan.jobs] == [
        (0, "prepare", ()),
        (1, "left", (0,)),
        (2, "right", (0,)),
        (3, "train", (0, 1, 2)),
    ]
    assert [reuse.text for reuse in plan.jobs[3].reuses] == ["data:v1", "old"]


def test_flags_and_variables_are_the_targets_alone() -> None:
    variables = "variables: {train: {lr: 1}, left: {lr: 2, width: 3}, prepare: {size: 4}}"
    plan = plan_of(
        project_of(DIAMOND, variables),
        "train",
        *["--lr", "7", "--width", "8", "--size=9", "--gpu", "4", "-e", "A=1"],
    )
    jobs = {job.workflow: job for job in plan.jobs}
    assert jobs["train"].variables == {"lr": "7"}
    assert jobs["left"].variables == {"lr": "2", "width": "8"}
    assert jobs["prepare"].variables == {"size": "9"}
    assert [job.needs.gpus for job in plan.jobs] == [0, 1, 0, 4]
    assert "A" not in jobs["prepare"].env
    assert plan.variables == {"lr": "7", "width": "8", "size": "9"}


def test_a_global_variable_is_the_same_for_the_whole_run() -> None:
    variables = "variables: {global: {seed: 1}, right: {seed: 2}}"
    plan = plan_of(project_of(DIAMOND, variables), "train", "--seed", "3")
    assert [job.variables["seed"] for job in plan.jobs] == ["3", "3", "2", "3"]


def test_dependencies_may_be_named_by_variables() -> None:
    project = project_of(
        "workflows:\n"
        "  - {name: a, provider: bash, commands: [a]}\n"
        "  - {name: b, provider: bash, commands: [b]}\n"
        "  - {name: x, provider: bash, commands: [x], depends-on: [$which]}\n",
        "variables: {x: {which: a}}",
    )
    assert [job.workflow for job in plan_of(project, "x").jobs] == ["a", "x"]
    assert [job.workflow for job in plan_of(project, "x", "--which", "b").jobs] == ["b", "x"]


def test_each_job_has_an_id_of_its_own() -> None:
    project = project_of(
        "workflows:\n"
        "  - {name: a, provider: bash, commands: [echo $job_id]}\n"
        "  - {name: b, provider: bash, commands: [echo $job_id], depends-on: [a]}\n"
    )
    jobs = plan_of(project, "b").jobs
    assert jobs[0].commands == (f"echo {job_id(RUN_ID, 0)}",)
    assert jobs[1].commands == (f"echo {job_id(RUN_ID, 1)}",)


def test_a_chain_longer_than_the_stack_is_a_plan() -> None:
    count = 2_000
    lines = ["workflows:", "- {name: w0, provider: bash, commands: [a]}"]
    lines += [
        f"- {{name: w{n}, provider: bash, commands: [a], depends-on: [w{n - 1}]}}"
        for n in range(1, count)
    ]
    plan = plan_of(project_of("\n".join(lines)), f"w{count - 1}")
    assert plan.jobs[-1].after == tuple(range(count - 1))


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6))
def test_there_is_a_plan_exactly_where_there_is_no_cycle(links: list[list[int]]) -> None:
    names = range(len(links))
    wanted = {name: [link for link in links[name] if link < len(links)] for name in names}
    project = project_of(
        "workflows:\n"
        + "".join(
            f"  - {{name: w{name}, provider: bash, commands: [a],"
            f" depends-on: [{', '.join(f'w{link}' for link in wanted[name])}]}}\n"
            for name in names
        )
    )
    reach = {name: set(wanted[name]) for name in names}
    for _ in names:
        for name in names:
            reach[name].update(*(reach[link] for link in set(reach[name])))
    problems = find_problems(project)
    if any(name in reach[name] for name in names):
        assert {problem.code for problem in problems} == {Code.CYCLE}
        return
    assert not problems
    for name in names:
        jobs = plan_of(project, f"w{name}").jobs
        assert {job.workflow for job in jobs} == {f"w{link}" for link in (*reach[name], name)}
        for job in jobs:
            assert all(index < job.index for index in job.after)
            mine = {jobs[index].workflow for index in job.after}
            assert mine == {f"w{link}" for link in reach[int(job.workflow[1:])]}
