"""Variables: where they come from, where they go, what stays the shell's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_scheduler.names import job_id
from dstack_scheduler.secret import RegistryAuth
from dstack_scheduler.workflow.interpolation import Interpolator, Values
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import RUN_ID, codes_of, job_of, plan_of, project_of

VARIABLES = """variables:
  global:
    seed: 1
  x:
    lr: 0.00002
    gpu: 1
    batch-size: 0o17
    flag: on
    model: small
    model_dir: out
"""


def command(text: str, *args: str) -> str:
    job = job_of(f"provider: bash\ncommands:\n  - |-\n    {text}", args, VARIABLES)
    return job.commands[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--lr $lr", "--lr 0.00002"),
        ("--lr ${{ lr }} ${{lr}}", "--lr 0.00002 0.00002"),
        ("$batch-size $batch_size ${{ batch-size }}", "0o17 0o17 0o17"),
        ("$flag $seed", "on 1"),
        ("$model_dir/$model", "out/small"),
        ("$models $model2 $model.pt $model-x", "$models $model2 small.pt small-x"),
        ("$PORT_0 $HOME $1 $$ $? ${model} $(ls) \\$lr $$lr", None),
        ("$run_name ${{ run.name }}", "calm-ibex-1 calm-ibex-1"),
        ("$job_id", job_id(RUN_ID, 0)),
        ("[${{ run.args }}]", "[]"),
        (
            "$variables_as_args",
            "--seed 1 --lr 0.00002 --gpu 1 --batch-size 0o17 --flag on --model small "
            "--model_dir out",
        ),
    ],
)
def test_only_declared_names_are_replaced(text: str, expected: str | None) -> None:
    assert command(text) == (text if expected is None else expected)


def test_the_longest_name_wins() -> None:
    for names in ("batch: 1, batch-size: 2", "batch-size: 2, batch: 1"):
        variables = f"variables: {{x: {{{names}}}}}"
        job = job_of("provider: bash\ncommands: [$batch-size $batch $batch-x]", (), variables)
        assert job.commands == ("2 1 1-x",)


def test_secrets_stay_placeholders_and_are_collected() -> None:
    job = job_of("provider: bash\ncommands: [a]\nsecrets: [KEY]\nenv: ['T=x${{secrets.T}}']")
    assert job.env == {"T": "x${{secrets.T}}"}
    assert (job.secret_names, job.secrets_needed) == (("KEY",), ("KEY", "T"))


def test_what_an_image_is_pulled_with_stays_a_placeholder() -> None:
    auth = "{username: $user, password: '${{ secrets.REGISTRY }}'}"
    job = job_of(
        f"provider: docker\nimage: x\nregistry_auth: {auth}", (), "variables: {x: {user: ana}}"
    )
    assert job.registry_auth == RegistryAuth("ana", "${{ secrets.REGISTRY }}")
    assert (job.secret_names, job.secrets_needed) == ((), ("REGISTRY",))


def test_variables_are_exported_after_env_in_upper_case() -> None:
    job = job_of("provider: bash\ncommands: [a]\nenv: [LR=5, other=x]", (), VARIABLES)
    assert job.env == {
        "LR": "0.00002",
        "other": "x",
        "SEED": "1",
        "GPU": "1",
        "BATCH_SIZE": "0o17",
        "FLAG": "on",
        "MODEL": "small",
        "MODEL_DIR": "out",
    }


def test_a_variable_does_not_take_the_path_away() -> None:
    job = job_of("provider: bash\ncommands: [ls $path]", (), "variables: {x: {path: data}}")
    assert (job.commands, job.env) == (("ls data",), {})


@pytest.mark.parametrize("value", ["${{ gpu }}", "$gpu", '"$gpu"'])
def test_resources_are_checked_after_variables_are_put_in(value: str) -> None:
    workflow = f"provider: bash\ncommands: [a]\nresources:\n  v100/gpu: {value}"
    assert job_of(workflow, (), VARIABLES).needs.gpus == 1
    assert job_of(workflow, ["--gpu", "4"], VARIABLES).needs.gpus == 4
    assert job_of(workflow, ["--gpu", "0"], VARIABLES).needs.gpus == 0
    assert job_of(workflow, ["--gpu="], VARIABLES).needs.gpus == 0
    with pytest.raises(Exception, match="two"):
        job_of(workflow, ["--gpu", "two"], VARIABLES)


def test_a_variable_that_nobody_declared_is_an_error_where_no_shell_would_see_it() -> None:
    project = project_of(
        "workflows: [{name: x, provider: bash, commands: [echo $y], artifacts: [$y]}]"
    )
    assert codes_of(project, "x") == [Code.UNKNOWN_VARIABLE]


def test_sections_may_be_empty_or_of_unknown_workflows() -> None:
    workflows = "workflows: [{name: x, provider: bash, commands: [a]}]"
    for text in ["variables:", "variables: {x: , y: {a: 1}, global: }", "", "{}", "# nothing"]:
        assert plan_of(project_of(workflows, text), "x").jobs[0].variables == {}


PLAIN = st.text(
    st.characters(whitelist_categories=("L", "N", "P", "S", "Zs"), blacklist_characters="\x85"),
    max_size=30,
)


@given(PLAIN)
def test_values_reach_commands_env_and_arguments_as_they_were_written(value: str) -> None:
    text = "variables:\n  x:\n    v: '" + value.replace("'", "''") + "'\n"
    job = job_of("provider: bash\ncommands: ['a $v b ${{ v }}']", (), text)
    assert job.commands == (f"a {value} b {value}",)
    assert (job.env, job.variables) == ({"V": value}, {"v": value})
    typed = job_of("provider: bash\ncommands: ['a $v']", [f"--v={value}"], "variables: {x: {v: 1}}")
    assert typed.commands == (f"a {value}",)


@given(PLAIN)
def test_text_without_variables_is_left_alone(text: str) -> None:
    interpolator = Interpolator(Values({"lr": "1"}))
    if "lr" not in text and "${{" not in text and "run_name" not in text:
        assert interpolator.put_into(text).text == text
