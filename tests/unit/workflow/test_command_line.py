"""What is typed after the target: variables, then flags, then the script's own."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import Reuse
from dstack_scheduler.workflow.command_line import FLAGS, SHORT
from dstack_scheduler.workflow.problem import Code, WorkflowProblems
from support.workflow_files import codes_of, job_of, plan_of, project_of

PYTHON = "provider: python\nfile: t.py\n"
VARIABLES = "variables: {global: {seed: 1}, x: {batch-size: 4, gpu: 1}}"
NOTHING = project_of("workflows: []")


def test_variables_come_before_flags() -> None:
    job = job_of(f"{PYTHON}args: $gpu", ["--gpu", "4"], VARIABLES)
    assert (job.commands, job.needs) == (("python t.py 4",), Needs())


@pytest.mark.parametrize(
    "args", [["--batch_size", "8"], ["--batch-size=8"], ["--batch_size=8"], ["--batch-size", "8"]]
)
def test_dashes_and_underscores_of_variables_are_the_same(args: list[str]) -> None:
    job = job_of(PYTHON, args, VARIABLES)
    assert job.variables["batch-size"] == "8"
    assert job.commands == ("python t.py",)


def test_a_negative_number_is_a_value() -> None:
    assert job_of(PYTHON, ["--seed", "-1"], VARIABLES).variables["seed"] == "-1"


def test_two_variables_in_a_row_keep_their_own_values() -> None:
    job = job_of(PYTHON, ["--seed", "5", "--batch-size", "6", "--x", "7"], VARIABLES)
    assert job.variables == {"seed": "5", "batch-size": "6", "gpu": "1"}
    assert job.commands == ("python t.py --x 7",)


LINE = (
    "--gpu 2 --memory 32GB --shm-size 1GB --cpu 3 -i -e B=2 --env C -a new --artifact ./more/ "
    "--dep z:v2 -r req.txt --working-dir other"
)


def test_flags_change_what_the_file_says() -> None:
    job = job_of(
        f"{PYTHON}artifacts: [old]\nenv: [A=1]\ndepends-on: ['y:v1']\nworking_dir: src\n"
        "resources: {gpu: {name: V100, memory: 16GB}, memory: 1GB}",
        LINE.split(),
    )
    assert job.needs == Needs(3, 32 * 10**9, 2, "V100", 16 * 10**9, 10**9, True)
    assert job.env == {"A": "1", "B": "2", "C": ""}
    assert job.artifacts == ("new", "more")
    assert job.reuses == (Reuse("z", "v2", "", "z:v2"),)
    assert job.working_dir == "other"
    assert (job.installs, job.commands) == (("-r req.txt",), ("python t.py",))


def test_who_names_a_model_wants_a_card() -> None:
    assert job_of(PYTHON, ["--gpu-name", "A100"]).needs == Needs(gpus=1, gpu_name="A100")
    assert job_of(PYTHON, ["--gpu-memory", "16GB"]).needs.gpus == 1
    job = job_of(f"{PYTHON}resources: {{gpu: {{name: V100}}}}", ["--gpu", "0"])
    assert job.needs == Needs()


def test_dep_replaces_what_would_have_been_run() -> None:
    project = project_of(
        "workflows:\n"
        "  - {name: y, provider: bash, commands: [a]}\n"
        "  - {name: x, provider: bash, commands: [a], depends-on: [y]}\n"
    )
    plan = plan_of(project, "x", "--dep", "y")
    assert [job.workflow for job in plan.jobs] == ["x"]
    assert plan.jobs[0].reuses == (Reuse("y", text="y"),)


def test_after_two_dashes_everything_is_the_scripts() -> None:
    job = job_of(PYTHON, ["--seed", "5", "--", "--seed", "6", "--gpu", "1", "--"], VARIABLES)
    assert job.variables["seed"] == "5"
    assert job.commands == ("python t.py --seed 6 --gpu 1 --",)


def test_the_rest_is_quoted_for_the_shell_and_keeps_its_order() -> None:
    rest = ["--name", "a b", "$HOME", ";", "--x=1", "--x=2", "pos"]
    job = job_of(f"{PYTHON}args: --first", rest)
    assert job.commands == (f"python t.py --first {shlex.join(rest)}",)


def test_run_args_go_where_the_workflow_says() -> None:
    job = job_of("provider: bash\ncommands: ['echo ${{ run.args }} end']", ["--x", "a b"])
    assert job.commands == ("echo --x 'a b' end",)
    job = job_of(PYTHON + "args: first ${{ run.args }} last", ["--x", "1"])
    assert job.commands == ("python t.py first --x 1 last",)


@pytest.mark.parametrize("workflow", ["provider: bash\ncommands: [a]", "image: a\ncommands: [a]"])
def test_arguments_that_nobody_uses_are_a_mistake(workflow: str) -> None:
    with pytest.raises(Exception, match="makes no use of --epochs 3"):
        job_of(workflow, ["--epochs", "3"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("lab --gpus 1", 'did you mean "--gpu"?'),
        ("notebook --zzzzzz", "dstack run notebook --help"),
        ("code word", "dstack run code --help"),
        ("fastapi main:app extra", "dstack run fastapi --help"),
    ],
)
def test_a_direct_run_drops_no_word_silently(words: str, hint: str) -> None:
    with pytest.raises(WorkflowProblems) as caught:
        plan_of(NOTHING, *words.split())
    (problem,) = caught.value.problems
    assert (problem.code, problem.hint) == (Code.UNUSED_ARGUMENTS, hint)


@pytest.mark.parametrize("words", ["bash -c a --x", "docker alpine --x", "curl u -o f --x"])
def test_a_direct_run_of_commands_gets_its_further_words(words: str) -> None:
    (job,) = plan_of(NOTHING, *words.split()).jobs
    assert any("--x" in command for command in job.commands)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--gpu"], Code.MISSING_VALUE),
        (["--memory", "--cpu", "1"], Code.MISSING_VALUE),
        (["--gpu", "two"], Code.BAD_NUMBER),
        (["--memory", "16"], Code.BAD_SIZE),
        (["--artifact", "../x"], Code.BAD_PATH),
        (["--dep", "a/b"], Code.BAD_DEPENDENCY),
        (["--dep", "nowhere"], Code.UNKNOWN_WORKFLOW),
        (["-e", "=x"], Code.BAD_ENV),
        (["--working-dir", "../x"], Code.BAD_PATH),
    ],
)
def test_mistakes_on_the_command_line_have_no_file(args: list[str], code: Code) -> None:
    assert codes_of(NOTHING, "python", "t.py", *args) == [code]


def test_every_flag_has_a_short_form_that_exists() -> None:
    assert set(SHORT.values()) <= set(FLAGS)


def test_the_direct_runs_of_the_documents() -> None:
    line = (
        "train.py --epoch 100 --seed 2 --batch-size 128 "
        "--dep prepare:latest --artifact checkpoint --gpu 1"
    )
    job = plan_of(NOTHING, "python", *line.split()).jobs[0]
    assert job.commands == ("python train.py --epoch 100 --seed 2 --batch-size 128",)
    assert job.reuses == (Reuse("prepare", "latest", "", "prepare:latest"),)
    assert (job.artifacts, job.needs) == (("checkpoint",), Needs(gpus=1))


def test_bash_and_docker_run_directly() -> None:
    job = plan_of(NOTHING, "bash", "-c", "echo 'a b' | wc", "--gpu", "1").jobs[0]
    assert (job.commands, job.needs.gpus) == (("echo 'a b' | wc",), 1)
    job = plan_of(NOTHING, "bash", "-c", 'echo "$1"', "a b").jobs[0]
    assert job.commands == ("set -- 'a b'", 'echo "$1"')
    job = plan_of(NOTHING, "docker", "alpine", "-c", "echo hi", "-p", "2").jobs[0]
    assert (job.image, job.commands, job.ports) == ("alpine", ("echo hi",), (0, 0))
    job = plan_of(NOTHING, "docker", "alpine", "echo", "a b").jobs[0]
    assert job.commands == ("echo 'a b'",)
    assert plan_of(NOTHING, "docker", "alpine").jobs[0].commands == ()


@pytest.mark.parametrize("target", ["python", "docker", "bash"])
def test_a_direct_run_without_its_first_word_says_how_to_write_it(target: str) -> None:
    assert codes_of(NOTHING, target) == [Code.MISSING_KEY]


def test_a_workflow_wins_over_a_provider_of_its_name() -> None:
    project = project_of("workflows: [{name: python, provider: bash, commands: [echo mine]}]")
    assert plan_of(project, "python").jobs[0].commands == ("echo mine",)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("nowhere", Code.UNKNOWN_WORKFLOW),
        ("python@next", Code.NOT_SUPPORTED_YET),
        ("python@branch", Code.NOT_SUPPORTED_YET),
    ],
)
def test_a_target_that_is_not_there(target: str, code: Code) -> None:
    assert codes_of(NOTHING, target) == [code]


WORDS = "--gpu 1 -- -e A=1 --seed --x -1 --dep y:v -a d = - --gpu=2 --x=y -c $HOME --batch_size"


@given(st.lists(st.sampled_from([*WORDS.split(), "", "a b"]), max_size=8))
def test_any_words_are_a_plan_or_problems(words: list[str]) -> None:
    project = project_of("workflows: [{name: x, provider: python, file: t.py}]", VARIABLES)
    for target in ("x", "python", "bash", "docker"):
        codes_of(project, target, *words)


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs",)), max_size=10), max_size=6))
def test_what_follows_two_dashes_reaches_the_script_word_for_word(words: list[str]) -> None:
    job = job_of(PYTHON, ["--", *words])
    assert shlex.split(job.commands[0]) == ["python", "t.py", *words]
