"""Section 3.2 of the map: what `dstack run` is told, and what it tells."""

import pytest

from dstack_cli.interrupts import AGAIN_SECONDS, Interrupts, Wish
from dstack_cli.run_words import read
from dstack_cli.targets import help_of, targets_listing
from dstack_scheduler.workflow.problem import WorkflowProblems
from support.workflow_files import plan_of, project_of

PROJECT = project_of(
    "workflows: [{name: train, help: Trains it, provider: python, file: t.py}]",
    "variables: {train: {lr: 0.1}}",
)


def test_3_2_8_run_without_a_name_lists_workflows_and_providers() -> None:
    assert read([]).target == ""
    names = targets_listing(PROJECT).names
    assert names[0] == "train"
    assert {"bash", "docker", "python"} <= set(names)


def test_3_2_9_following_is_what_happens_and_its_flag_is_taken() -> None:
    for line in (["train"], ["-f", "train"], ["train", "--follow"]):
        assert not read(line).detach
    assert read(["train", "-f", "--lr", "1"]).words == ("--lr", "1")


def test_3_2_10_a_workflow_or_a_provider_is_run_by_its_name() -> None:
    assert plan_of(PROJECT, "train", "--lr", "1").target == "train"
    assert plan_of(PROJECT, "python", "t.py", "--epoch", "1").target == "python"


@pytest.mark.parametrize("flag", ["-d", "--detach"])
def test_3_2_11_a_run_may_be_left(flag: str) -> None:
    assert read([flag, "train"]).detach
    assert read(["train", flag]).detach


@pytest.mark.parametrize(
    ("on_terminal", "wishes"),
    [(True, [Wish.DETACH, Wish.STOP, Wish.ABORT]), (False, [Wish.STOP, Wish.ABORT, Wish.ABORT])],
)
def test_3_2_12_the_first_press_leaves_or_stops_and_the_next_is_harder(
    on_terminal: bool, wishes: list[Wish]
) -> None:
    """In front of a real terminal: `tests/e2e/test_cli_interrupts.py`."""
    presses = Interrupts(on_terminal)
    assert [presses.pressed(at, accepted=True) for at in (0.0, 1.0, 2.0)] == wishes
    later = Interrupts(on_terminal=True)
    alone = [later.pressed(at * (AGAIN_SECONDS + 0.1), accepted=True) for at in range(3)]
    assert alone == [Wish.DETACH] * 3


def test_3_2_13_a_run_may_be_tagged_when_it_is_submitted() -> None:
    for line in (["-t", "v1", "train"], ["train", "--tag", "v1"], ["train", "--tag=v1"]):
        assert read(line).tag == "v1"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_3_2_14_a_workflow_and_a_provider_tell_about_themselves(flag: str) -> None:
    asked = read(["train", flag])
    assert (asked.help, asked.target) == (True, "train")
    assert all(word in help_of(PROJECT, "train") for word in ("Trains it", "--lr", "--gpu"))
    assert "dstack run python FILE" in help_of(PROJECT, "python")


def test_3_2_14_help_names_the_flags_of_the_provider_as_they_may_be_spelled() -> None:
    project = project_of("workflows: [{name: fit, provider: torchrun, file: t.py}]")
    assert "--nnodes, --nodes N" in help_of(project, "fit")
    assert "-c, --command COMMAND" in help_of(project, "bash")
    shell = project_of("workflows: [{name: a, provider: bash, commands: [b]}]")
    assert "--command" not in help_of(shell, "a")


@pytest.mark.parametrize("target", ["trian", "python@v2", "nowhere"])
def test_3_2_14_help_and_the_run_say_the_same_of_what_is_not_there(target: str) -> None:
    with pytest.raises(WorkflowProblems) as told:
        help_of(PROJECT, target)
    with pytest.raises(WorkflowProblems) as run:
        plan_of(PROJECT, target)
    assert told.value.problems == run.value.problems
