"""Section 1.2 of the map: every key of a workflow, in every form that people wrote."""

from collections.abc import Sequence

import pytest

from dstack_scheduler.app import App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.secret import RegistryAuth
from dstack_scheduler.workflow.planning import find_problems
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, plan_of, project_of

BASH = "provider: bash\ncommands: [a]\n"
PYTHON = "provider: python\nfile: train.py\n"
DOCKER = "provider: docker\nimage: ubuntu\n"


def mistakes(workflow: str) -> list[Code]:
    lines = "".join(f"    {line}\n" for line in workflow.strip().split("\n"))
    return codes_of(project_of(f"workflows:\n  - name: x\n{lines}"), "x")


@pytest.mark.parametrize("name", ["train", "train-mnist", "a_b.c", "1", "обучение"])
def test_1_2_1_a_workflow_is_run_by_its_name(name: str) -> None:
    project = project_of(f"workflows: [{{name: '{name}', provider: bash, commands: [a]}}]")
    assert plan_of(project, name).target == name


@pytest.mark.parametrize("name", ["''", "a:b", "a/b", "'a,b'", "a;b", "[a]", "-x", "a b", "~"])
def test_1_2_1_a_name_that_could_not_be_referred_to_is_a_mistake(name: str) -> None:
    project = project_of(f"workflows: [{{name: {name}, provider: bash, commands: [a]}}]")
    assert [problem.code for problem in find_problems(project)] == [Code.BAD_NAME]


def test_1_2_1_a_workflow_without_a_name_is_a_mistake() -> None:
    problems = find_problems(project_of("workflows: [{provider: bash, commands: [a]}]"))
    assert [problem.code for problem in problems] == [Code.MISSING_KEY]


def test_1_2_2_help_is_one_line_for_people() -> None:
    text = "workflows: [{name: x, help: Trains it, provider: bash, commands: [a]}]"
    assert project_of(text).workflows["x"].help == "Trains it"


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("python3.9", 'write provider: python and python: "3.9"'),
        ("python/3.9", 'write provider: python and python: "3.9"'),
        ("python:3.11", 'write provider: python and python: "3.11"'),
        ("python==3.8", 'write provider: python and python: "3.8"'),
        ("bsh", 'did you mean "bash"?'),
    ],
)
def test_1_2_3_a_provider_as_people_misspell_it_is_answered_kindly(written: str, hint: str) -> None:
    text = f"workflows: [{{name: x, provider: '{written}', commands: [a]}}]"
    (problem,) = find_problems(project_of(text))
    assert (problem.code, problem.hint) == (Code.UNKNOWN_PROVIDER, hint)


def test_1_2_4_an_image_with_commands_needs_no_provider() -> None:
    job = job_of("image: python:3.11\ncommands: [a, b]\nartifacts: [data]\n")
    assert (job.image, job.commands, job.artifacts) == ("python:3.11", ("a", "b"), ("data",))
    assert mistakes("image: python:3.11") == [Code.MISSING_KEY]
    assert mistakes("commands: [a]") == [Code.MISSING_PROVIDER]


@pytest.mark.parametrize(
    "image",
    ["ubuntu", "python:3.11", "a.b.example:5000/c/d:e", "x@sha256:" + "0" * 64, "ghcr.io/a/b"],
)
def test_1_2_5_any_name_of_an_image_is_taken_as_written(image: str) -> None:
    assert job_of(f"provider: docker\nimage: '{image}'\n").image == image


def test_1_2_6_commands_are_a_list_or_one_text() -> None:
    assert job_of("provider: bash\ncommands: [a, 'b && c', d &]\n").commands == (
        "a",
        "b && c",
        "d &",
    )
    assert job_of("provider: bash\ncommands: |\n  a\n  b\n").commands == ("a\nb",)
    assert job_of(f"{DOCKER}command: a\n").commands == ("a",)
    assert mistakes("provider: bash\ncommands: []\n") == [Code.EMPTY]
    assert mistakes("provider: bash\n") == [Code.MISSING_KEY]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("python_script", id="1.2.7 python_script"),
        pytest.param("script", id="1.2.8 script"),
        pytest.param("file", id="1.2.9 file"),
    ],
)
def test_the_script_in_every_spelling(key: str) -> None:
    assert job_of(f"provider: python\n{key}: src/train.py\n").commands == ("python src/train.py",)
    assert mistakes(f"provider: python\n{key}: ''\n") == [Code.EMPTY]


def test_1_2_9_a_python_workflow_needs_its_script_once() -> None:
    assert mistakes("provider: python\n") == [Code.MISSING_KEY]
    assert mistakes(f"{PYTHON}script: other.py\n") == [Code.SAID_TWICE]


def test_1_2_20_the_version_of_a_tool_is_what_is_installed() -> None:
    for tool in ("lab", "notebook"):
        assert any("==4.2" in one for one in job_of(f"provider: {tool}\nversion: 4.2\n").installs)
    assert mistakes("provider: lab\nversion: newest\n") == [Code.BAD_NAME]


def test_1_2_21_the_version_of_uvicorn() -> None:
    job = job_of("provider: fastapi\napp: main:app\nuvicorn: 0.30\n")
    assert any("uvicorn[standard]==0.30" in each for each in job.installs)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--lr 0.1", "--lr 0.1"),
        ("[--lr, 0.1, 'a b', $HOME]", "--lr 0.1 'a b' '$HOME'"),
        ("7", "7"),
        ("'--home $HOME'", "--home $HOME"),
    ],
)
def test_1_2_16_args_follow_the_script(args: str, words: str) -> None:
    assert job_of(f"{PYTHON}args: {args}\n").commands == (f"python train.py {words}",)


def first_commands(job: PlannedJob) -> Sequence[str]:
    return job.commands[:-1]


@pytest.mark.parametrize("workflow", [BASH, PYTHON])
def test_1_2_17_requirements_come_before_anything_else(workflow: str) -> None:
    job = job_of(f"{workflow}requirements: a b.txt\nsetup: [b]\n")
    assert job.installs == ("-r 'a b.txt'",)
    assert first_commands(job) == ("b",)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("before_run", id="1.2.18 before_run"),
        pytest.param("setup", id="1.2.19 setup"),
    ],
)
@pytest.mark.parametrize("workflow", [BASH, PYTHON])
def test_commands_before_the_main_one(key: str, workflow: str) -> None:
    assert first_commands(job_of(f"{workflow}{key}: [b, c]\n")) == ("b", "c")
    assert first_commands(job_of(f"{workflow}{key}: b\n")) == ("b",)


@pytest.mark.parametrize(
    ("workflow", "key"),
    [
        pytest.param(PYTHON, "version", id="1.2.20 version"),
        pytest.param(PYTHON, "python", id="1.2.22 python"),
        pytest.param(BASH, "python", id="1.2.22 python of bash"),
    ],
)
def test_the_version_of_python_is_read_as_it_is_written(workflow: str, key: str) -> None:
    assert [
        job_of(f"{workflow}{key}: {version}\n").python
        for version in ("3.7", "3.10", "'3.10'", "3.11")
    ] == ["3.7", "3.10", "3.10", "3.11"]
    assert mistakes(f"{workflow}{key}: 2.7\n") == [Code.BAD_PYTHON]
    assert mistakes(f"{workflow}{key}: [3.10]\n") == [Code.WRONG_TYPE]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("environment", id="1.2.23 environment"),
        pytest.param("env", id="1.2.24 env"),
    ],
)
@pytest.mark.parametrize("workflow", [BASH, PYTHON, DOCKER])
def test_env_in_all_its_forms(key: str, workflow: str) -> None:
    assert job_of(f"{workflow}{key}: {{A: 1, b: x y, C: }}\n").env == {
        "A": "1",
        "b": "x y",
        "C": "",
    }
    assert job_of(f"{workflow}{key}: [A=1, b=c=d, http_proxy]\n").env == {
        "A": "1",
        "b": "c=d",
        "http_proxy": "",
    }
    assert mistakes(f"{workflow}{key}: ['A: 1']\n") == [Code.BAD_ENV]
    assert mistakes(f"{workflow}{key}:\n- A: 1\n") == [Code.BAD_ENV]


@pytest.mark.parametrize(
    ("written", "path"),
    [("src", "src"), ("./src/", "src"), ("''", ""), (".", ""), ("/workflow/src", "src")],
)
def test_1_2_25_a_job_may_start_in_a_folder_of_the_project(written: str, path: str) -> None:
    assert job_of(f"{BASH}working_dir: {written}\n").working_dir == path
    assert mistakes(f"{BASH}working_dir: ../x\n") == [Code.BAD_PATH]


@pytest.mark.parametrize("workflow", [BASH, DOCKER])
def test_1_2_25_a_job_may_start_in_a_folder_of_the_image_or_the_machine(workflow: str) -> None:
    job = job_of(f"{workflow}working_dir: /app//src/\nartifacts: [out, /data]\n")
    assert (job.working_dir, job.artifacts) == ("/app/src", ("out", "/data"))
    assert mistakes(f"{workflow}working_dir: ~/x\n") == [Code.BAD_PATH]


def test_1_2_26_the_home_of_an_image_is_where_the_tilde_leads() -> None:
    job = job_of(f"{DOCKER}home_dir: /home/app\nartifacts: [~/x, y]\n")
    assert job.artifacts == ("/home/app/x", "y")
    assert mistakes(f"{DOCKER}home_dir: app\n") == [Code.BAD_PATH]
    assert mistakes(f"{BASH}home_dir: /root\n") == [Code.UNKNOWN_KEY]


@pytest.mark.parametrize("workflow", [BASH, PYTHON, DOCKER])
def test_1_2_27_every_provider_keeps_artifacts(workflow: str) -> None:
    assert job_of(f"{workflow}artifacts: [a, {{path: ./b}}]\n").artifacts == ("a", "b")


@pytest.mark.parametrize("key", ["depends-on", "dependencies", "deps"])
@pytest.mark.parametrize("workflow", [BASH, PYTHON, DOCKER])
def test_1_2_28_every_provider_takes_inputs(workflow: str, key: str) -> None:
    (reuse,) = job_of(f"{workflow}{key}: ['y:v1']\n").reuses
    assert (reuse.workflow, reuse.tag) == ("y", "v1")


@pytest.mark.parametrize("workflow", [BASH, PYTHON, DOCKER])
def test_1_2_29_every_provider_asks_for_hardware(workflow: str) -> None:
    assert job_of(f"{workflow}resources: {{cpu: 2, gpu: 1}}\n").needs.gpus == 1
    assert mistakes(f"{workflow}resources: [gpu]\n") == [Code.WRONG_TYPE]
    assert mistakes(f"{workflow}resources: {{GPU: 1}}\n") == [Code.UNKNOWN_KEY]


def test_1_2_30_cards_may_stand_outside_of_resources() -> None:
    assert job_of(f"{PYTHON}gpu: 2\n").needs.gpus == 2
    assert mistakes(f"{PYTHON}gpu: 2\nresources: {{gpu: 1}}\n") == [Code.SAID_TWICE]


@pytest.mark.parametrize("workflow", [BASH, DOCKER])
def test_1_2_31_ports_are_a_number_or_a_list(workflow: str) -> None:
    assert len(job_of(f"{workflow}ports: 2\n").ports) == 2
    assert len(job_of(f"{workflow}ports: '2'\n").ports) == 2
    assert len(job_of(f"{workflow}ports: [8000, '8080:18080', '3000']\n").ports) == 3
    for wrong in ("[true]", "[3.5]", "port 6006", "[99999]", "9999"):
        assert mistakes(f"{workflow}ports: {wrong}\n")


def test_1_2_32_an_entrypoint_is_split_as_a_shell_would_or_a_list() -> None:
    assert job_of(f"{DOCKER}entrypoint: /bin/sh -c 'a b'\n").entrypoint == ("/bin/sh", "-c", "a b")
    assert job_of(f"{DOCKER}entrypoint: [/bin/sh, -c]\n").entrypoint == ("/bin/sh", "-c")
    assert mistakes(f'{DOCKER}entrypoint: "a \'b"\n') == [Code.BAD_QUOTING]


def test_1_2_33_an_image_is_pulled_with_a_secret_that_stays_a_placeholder() -> None:
    auth = "registry_auth: {username: ana, password: '${{ secrets.R }}'}\n"
    assert job_of(DOCKER + auth).registry_auth == RegistryAuth("ana", "${{ secrets.R }}")
    plain = "registry_auth: {username: ana, password: hunter2}\n"
    assert mistakes(DOCKER + plain) == [Code.BAD_SECRET]


def test_1_2_34_a_container_is_entered_beside_its_commands_or_instead_of_the_images() -> None:
    beside = job_of("image: a\ncommands: [x]\nssh: true\n")
    assert (beside.apps[0].ssh, beside.commands[-1]) == (True, "x")
    alone = job_of("provider: docker\nimage: a\nssh: true\n")
    assert (alone.apps, alone.ports) == ((App("ssh", 0, ssh=True),), (0,))
    assert [command.startswith("sh ") for command in alone.commands] == [True]


def test_1_2_34_who_works_in_a_job_may_enter_it_over_ssh() -> None:
    for provider in ("bash\ncommands: [a]", "code", "lab", "notebook"):
        without = job_of(f"provider: {provider}")
        for said in ("true", "'True'"):
            job = job_of(f"provider: {provider}\nssh: {said}\n")
            assert job.apps == (*without.apps, App("ssh", len(without.apps), ssh=True))
            assert job.ports == (*without.ports, 0)
            assert job.commands[1:] == without.commands and "DSTACK_SSHD" in job.commands[0]
        assert job_of(f"provider: {provider}\nssh: false\n") == without
    assert mistakes(f"{BASH}ssh: maybe\n") == [Code.WRONG_TYPE]
    assert mistakes(f"{DOCKER}ssh: maybe\n") == [Code.WRONG_TYPE]
    assert mistakes("provider: ssh\nssh: true\n") == [Code.UNKNOWN_KEY]


def test_1_2_35_a_job_that_is_entered_may_tell_a_link_for_an_editor() -> None:
    assert job_of("provider: ssh\ncode: true\n").apps[-1].editor
    for without in ("provider: ssh\ncode: false\n", "provider: ssh"):
        assert not job_of(without).apps[-1].editor
    assert mistakes("provider: ssh\ncode: 3\n") == [Code.WRONG_TYPE]
    assert mistakes(f"{BASH}code: true\n") == [Code.UNKNOWN_KEY]


def test_1_2_36_folders_may_stay_between_runs() -> None:
    for cache in ("[~/.cache/pip, ./build]", "[{path: ~/.cache/pip}, {path: ./build}]"):
        assert mistakes(f"{BASH}cache: {cache}\n") == []
    assert mistakes(f"{BASH}cache: ~/.cache\n") == [Code.WRONG_TYPE]


def test_1_2_37_a_mount_is_a_flag_of_artifacts_and_inputs() -> None:
    assert mistakes(f"{BASH}artifacts: [{{path: a, mount: true}}]\n") == []
    assert mistakes(f"{BASH}deps: [{{tag: v1, mount: true}}]\n") == []
    assert mistakes(f"{BASH}deps: [{{tag: v1, mount: maybe}}]\n") == [Code.WRONG_TYPE]
    assert mistakes(f"{BASH}mount: true\n") == [Code.UNKNOWN_KEY]


def test_1_2_39_there_is_no_matrix() -> None:
    assert mistakes(f"{BASH}matrix: {{lr: [1, 2]}}\n") == [Code.UNKNOWN_KEY]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("prebuild: force", Prebuild.FORCE),
        ("prebuild: never", Prebuild.NEVER),
        ("prebuild:", Prebuild.USUAL),
        ("help: none", Prebuild.USUAL),
    ],
)
def test_1_2_38_prebuild_says_whether_what_is_installed_is_kept(
    written: str, meant: Prebuild
) -> None:
    """What an agent makes of it: `tests/e2e/test_environments.py`."""
    for provider in (f"{BASH}requirements: r.txt\n", "provider: lab\n"):
        assert job_of(f"{provider}{written}\n").prebuild is meant
    assert mistakes(f"{BASH}prebuild: forced\n") == [Code.BAD_NAME]
