"""Section 1.3 of the map: the forms D1 to D14 of dependencies; the key decides what they mean."""

import pytest

from dstack_scheduler.plan import Plan, Reuse
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, plan_of, project_of

TOKENIZE = "- {name: tokenize, provider: bash, commands: [t], artifacts: [data]}"
OTHER = "- {name: other, provider: bash, commands: [o]}"


def planned(line: str, *args: str) -> Plan:
    """The plan of a workflow `fit` with one line about its inputs."""
    fit = f"- name: fit\n  provider: bash\n  commands: [f]\n  {line}"
    return plan_of(project_of(f"workflows:\n{TOKENIZE}\n{OTHER}\n{fit}\n"), "fit", *args)


def names(plan: Plan) -> list[str]:
    return [job.workflow for job in plan.jobs]


def reuses(line: str, *args: str) -> tuple[Reuse, ...]:
    """What is looked up; nothing is run first."""
    plan = planned(line, *args)
    assert names(plan) == ["fit"]
    return plan.jobs[-1].reuses


def refusal(line: str) -> list[Code]:
    fit = f"- name: fit\n  provider: bash\n  commands: [f]\n  {line}"
    return codes_of(project_of(f"workflows:\n{TOKENIZE}\n{fit}\n"), "fit")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("dependencies", id="1.3.1 D1"),
        pytest.param("depends-on", id="1.3.2 D2"),
    ],
)
def test_a_name_with_a_tag_is_looked_up(key: str) -> None:
    (reuse,) = reuses(f"{key}: ['tokenize:v3']")
    assert (reuse.workflow, reuse.tag, reuse.repo) == ("tokenize", "v3", "")


def test_1_3_3_a_bare_name_under_depends_on_is_a_job_of_the_same_run() -> None:
    for key in ("depends-on", "dependencies"):
        plan = planned(f"{key}: [tokenize]")
        assert names(plan) == ["tokenize", "fit"]
        assert plan.jobs[-1].after == (0,)
        assert plan.jobs[-1].reuses == ()


def test_1_3_4_depends_on_may_be_a_mapping_that_says_which_files_count() -> None:
    line = "depends-on: {workflows: [tokenize, 'other:v1'], repo: {include: ['src/**']}}"
    plan = planned(line)
    assert names(plan) == ["tokenize", "fit"]
    assert [reuse.tag for reuse in plan.jobs[-1].reuses] == ["v1"]
    assert refusal("depends-on: {workflows: tokenize}") == [Code.WRONG_TYPE]
    assert refusal("depends-on: {workflow: [tokenize]}") == [Code.UNKNOWN_KEY]
    assert refusal("depends-on: {repo: {exclude: [x]}}") == [Code.UNKNOWN_KEY]


def test_1_3_5_a_bare_name_under_deps_starts_nothing() -> None:
    (reuse,) = reuses("deps: [tokenize]")
    assert (reuse.workflow, reuse.tag) == ("tokenize", "")


def test_1_3_6_a_tag_alone_is_the_run_behind_it() -> None:
    (reuse,) = reuses("deps: [':v3']")
    assert (reuse.workflow, reuse.tag) == ("", "v3")


def test_1_3_7_another_repository_is_never_looked_up_in_this_one() -> None:
    first, second = reuses("deps: [acme/corpora/tokenize, ':acme/corpora/v3']")
    assert (first.repo, first.workflow, first.tag) == ("acme/corpora", "tokenize", "")
    assert (second.repo, second.workflow, second.tag) == ("acme/corpora", "", "v3")
    for wrong in ("corpora/tokenize", "a/b/c/d", "':a/v3'", "/a/b", "a//b", "'a:b:c'", "'x:'"):
        assert refusal(f"deps: [{wrong}]") == [Code.BAD_DEPENDENCY]


def test_1_3_8_a_workflow_as_a_mapping_is_the_same_as_its_text() -> None:
    for key in ("deps", "depends-on"):
        written = planned(f"{key}: [{{workflow: tokenize}}]")
        assert names(written) == names(planned(f"{key}: [tokenize]"))
        assert written.jobs[-1].reuses == planned(f"{key}: [tokenize]").jobs[-1].reuses
    mapped = reuses("deps: [{workflow: acme/corpora/tokenize}]")
    assert mapped == reuses("deps: [acme/corpora/tokenize]")


def test_1_3_9_a_tag_as_a_mapping_is_the_same_as_its_text() -> None:
    assert reuses("deps: [{tag: v3}]") == reuses("deps: [':v3']")
    assert reuses("deps: [{tag: acme/corpora/v3}]") == reuses("deps: [':acme/corpora/v3']")


def test_1_3_10_a_mount_changes_nothing_about_what_is_meant() -> None:
    assert reuses("deps: [{tag: v3, mount: true}]") == reuses("deps: [{tag: v3}]")
    mounted = reuses("deps: [{workflow: tokenize, mount: true}]")
    assert mounted == reuses("deps: [{workflow: tokenize}]")


def test_1_3_11_an_input_of_a_direct_run_is_given_by_a_flag() -> None:
    project = project_of(f"workflows:\n{TOKENIZE}\n")
    line = ("--epoch", "100", "--dep", "tokenize:v3", "--dep=:v4", "--artifact", "checkpoint")
    (job,) = plan_of(project, "python", "train.py", *line).jobs
    assert [(reuse.workflow, reuse.tag) for reuse in job.reuses] == [("tokenize", "v3"), ("", "v4")]
    assert (job.commands, job.artifacts) == (("python train.py --epoch 100",), ("checkpoint",))


def test_1_3_12_an_input_by_a_flag_replaces_those_of_the_file() -> None:
    (reuse,) = reuses("depends-on: [tokenize]", "--dep", ":v5")
    assert (reuse.workflow, reuse.tag) == ("", "v5")
    (reuse,) = reuses("deps: [':v1']", "--dep", "other")
    assert (reuse.workflow, reuse.tag) == ("other", "")


@pytest.mark.parametrize("key", ["deps", "depends-on", "dependencies"])
def test_1_3_13_latest_is_looked_up_as_a_tag(key: str) -> None:
    (reuse,) = reuses(f"{key}: ['tokenize:latest']")
    assert (reuse.workflow, reuse.tag) == ("tokenize", "latest")


def test_1_3_14_both_keys_stand_side_by_side_and_each_keeps_its_meaning() -> None:
    plan = planned("depends-on: [tokenize]\n  deps: [other]")
    assert names(plan) == ["tokenize", "fit"]
    assert [reuse.workflow for reuse in plan.jobs[-1].reuses] == ["other"]
