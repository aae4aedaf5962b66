"""Section 1.6 of the map: variables, and what is put into the texts of a workflow."""

import pytest

from dstack_scheduler.names import job_id
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import RUN_ID, codes_of, job_of, plan_of, project_of

VARIABLES = "variables: {global: {seed: 7}, x: {lr: 0.00002, batch-size: 32, epochs: 10}}"


def command(text: str, *args: str, variables: str = VARIABLES) -> str:
    """A command as the shell of the job reads it."""
    quoted = text.replace("'", "''")
    return job_of(f"provider: bash\ncommands: ['{quoted}']\n", args, variables).commands[-1]


def refusal(text: str, *args: str, variables: str = VARIABLES) -> list[Code]:
    project = project_of(
        f"workflows: [{{name: x, provider: bash, commands: ['{text}']}}]", variables
    )
    return codes_of(project, "x", *args)


def test_1_6_1_the_workflows_own_section_wins_over_global() -> None:
    variables = "variables: {global: {a: 1, b: 1}, x: {b: 2}, y: {b: 3, c: 3}}"
    assert command("$a $b $c", variables=variables) == "1 2 $c"
    assert command("a", variables="variables:\n") == "a"
    assert command("a", variables="variables: {x: }") == "a"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--epochs", "20"), "20 32"),
        (("--epochs=20", "--batch-size", "64"), "20 64"),
        (("--batch_size", "64"), "10 64"),
        (("--epoch", "20"), "20 32"),
        (("--batch", "64"), "10 64"),
        (("--epochs", "-1"), "-1 32"),
        (("--epochs", "1", "--epochs", "2"), "2 32"),
    ],
)
def test_1_6_2_variables_are_given_in_any_spelling(args: tuple[str, ...], expected: str) -> None:
    assert command("$epochs ${{ batch-size }}", *args) == expected


def test_1_6_2_variables_of_a_dependency_may_be_given_too() -> None:
    project = project_of(
        "workflows:\n- {name: y, provider: bash, commands: [b $size $seed]}\n"
        "- {name: x, provider: bash, commands: [a $seed], depends-on: [y]}\n",
        "variables: {global: {seed: 7}, y: {size: 1}}",
    )
    commands = [job.commands for job in plan_of(project, "x", "--size", "5", "--seed=1").jobs]
    assert commands == [("b 5 1",), ("a 1",)]


@pytest.mark.parametrize(
    "value", ["0.00002", "1e-3", "1_000", "0o17", "on", "12GB", "3.10", "007", "True", "a b"]
)
def test_1_6_3_a_value_reaches_the_shell_as_it_was_written(value: str) -> None:
    variables = f"variables: {{x: {{v: {value}}}}}"
    assert command("$v", variables=variables) == value
    assert command("$v", "--v", "2e-05", variables=variables) == "2e-05"


def test_1_6_4_a_name_stands_after_a_dollar_or_in_double_braces() -> None:
    assert command("$lr ${{ lr }} ${{lr}} $batch-size $batch_size") == (
        "0.00002 0.00002 0.00002 32 32"
    )
    variables = "variables: {x: {model: a, model_dir: b}}"
    assert command("$model_dir $model $models", variables=variables) == "b a $models"
    job = job_of(
        "provider: bash\ncommands: [a]\nartifacts: [out/$lr]\nenv: [X=$lr]\n", variables=VARIABLES
    )
    assert (job.artifacts, job.env["X"]) == (("out/0.00002",), "0.00002")


def test_1_6_4_what_nobody_declared_is_the_shells() -> None:
    text = "$HOME $PORT_0 $1 $$ $@ $UPPER ${x} \\$lr $(date)"
    assert command(text) == text


def test_1_6_5_the_system_has_variables_of_its_own() -> None:
    assert command("$run_name ${{ run_name }}") == "calm-ibex-1 calm-ibex-1"
    assert command("$job_id") == command("${{ job_id }}") == job_id(RUN_ID, 0)
    assert command("$variables_as_args", "--lr", "1") == (
        "--seed 7 --lr 1 --batch-size 32 --epochs 10"
    )


def test_1_6_6_every_variable_is_in_the_environment() -> None:
    env = job_of("provider: bash\ncommands: [a]\n", variables=VARIABLES).env
    assert env == {"SEED": "7", "LR": "0.00002", "BATCH_SIZE": "32", "EPOCHS": "10"}


def test_1_6_7_the_variables_of_a_run_are_shown_as_they_are_in_effect() -> None:
    project = project_of("workflows: [{name: x, provider: bash, commands: [a]}]", VARIABLES)
    plan = plan_of(project, "x", "--lr", "1")
    assert plan.variables == {"seed": "7", "lr": "1", "batch-size": "32", "epochs": "10"}


def test_1_6_8_what_is_left_of_the_command_line_goes_where_run_args_stands() -> None:
    args = ("--fast", "a b", "$(rm)", "--n", "-1", "--", "--lr", "2")
    assert command("t ${{ run.args }}", *args) == "t --fast 'a b' '$(rm)' --n -1 --lr 2"
    assert command("t ${{ run.args }}") == "t "


def test_1_6_9_the_name_of_the_run() -> None:
    assert command("${{ run.name }}") == "calm-ibex-1"


def test_1_6_10_a_placeholder_of_a_secret_stays_until_the_machine_that_fills_it() -> None:
    job = job_of("provider: bash\ncommands: [a]\nenv: ['T=${{ secrets.T }}']\n")
    assert job.env == {"T": "${{ secrets.T }}"}
    assert refusal("${{ secrets.T }}") == [Code.BAD_SECRET]


def test_1_6_11_two_dollars_and_names_in_braces_that_nobody_knows() -> None:
    assert command("$$ $${{ lr }} $$lr") == "$$ ${{ lr }} $$lr"
    assert refusal("${{ github.sha }}") == [Code.UNKNOWN_VARIABLE]
    assert refusal("${{ lrr }}") == [Code.UNKNOWN_VARIABLE]
    assert refusal("${{ lr") == [Code.UNKNOWN_VARIABLE]


def test_1_6_12_flags_that_are_not_ours_go_to_the_script_in_their_order() -> None:
    project = project_of("workflows: []")
    args = ("fit.py", "--lr", "0.1", "--gpu", "1", "-x", "--name=a b", "--", "--cpu", "2")
    (job,) = plan_of(project, "python", *args).jobs
    assert job.commands == ("python fit.py --lr 0.1 -x '--name=a b' --cpu 2",)
    assert (job.needs.gpus, job.needs.cpus) == (1, 0)


def test_1_6_13_unknown_flags_of_a_workflow_are_used_or_refused_and_never_dropped() -> None:
    python = "provider: python\nfile: train.py\n"
    job = job_of(python, ("--epoch", "100", "--seed", "2"))
    assert job.commands == ("python train.py --epoch 100 --seed 2",)
    assert job_of(python, ("--epoch", "1"), VARIABLES).commands == ("python train.py --epoch 1",)
    assert refusal("a", "--fast", "1") == [Code.UNUSED_ARGUMENTS]
