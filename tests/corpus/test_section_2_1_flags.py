"""Section 2.1 of the map: flags of every provider, after a workflow's name and in direct runs."""

import pytest

from dstack_cli.run_words import read
from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, plan_of, project_of

GB = 10**9
WRITTEN = "provider: python\nfile: t.py\n"
DIRECT = ("t.py",)


def named(*args: str, written: str = "") -> PlannedJob:
    """The job of a workflow with flags after its name."""
    return job_of(WRITTEN + written, args)


def direct(*args: str) -> PlannedJob:
    """The job of a direct run with flags among the script's own arguments."""
    (job,) = plan_of(project_of("workflows: []"), "python", *DIRECT, *args).jobs
    return job


def both(*args: str) -> list[PlannedJob]:
    return [named(*args), direct(*args)]


def test_2_1_1_requirements() -> None:
    for flag in (("-r", "a.txt"), ("--requirements", "a.txt"), ("--requirements=a.txt",)):
        assert [job.installs for job in both(*flag)] == [("-r a.txt",)] * 2
    assert named("-r", "b.txt", written="requirements: a.txt\n").installs == ("-r b.txt",)


def test_2_1_2_env_adds_and_a_bare_name_is_empty() -> None:
    job = named("-e", "A=1", "--env", "B", "--env=C=x=y", written="env: [A=0, D=4]\n")
    assert job.env == {"A": "1", "B": "", "C": "x=y", "D": "4"}
    assert direct("-e", "A=1").env == {"A": "1"}


def test_2_1_3_artifact_replaces() -> None:
    job = named("-a", "x", "--artifact", "./y/", written="artifacts: [data]\n")
    assert job.artifacts == ("x", "y")
    assert direct("-a", "x").artifacts == ("x",)


def test_2_1_4_dep_replaces() -> None:
    job = named("--dep", "a:v1", "--dep", ":v2", written="deps: [':v0']\n")
    assert [(reuse.workflow, reuse.tag) for reuse in job.reuses] == [("a", "v1"), ("", "v2")]
    assert [reuse.tag for reuse in direct("--dep", "a:latest").reuses] == ["latest"]


def test_2_1_5_working_dir() -> None:
    for flag in (("-w", "src"), ("--working-dir", "./src/")):
        assert [job.working_dir for job in both(*flag)] == ["src", "src"]


def test_2_1_6_interruptible() -> None:
    for flag in ("-i", "--interruptible"):
        assert [job.needs.interruptible for job in both(flag)] == [True, True]


@pytest.mark.parametrize(
    ("args", "needs"),
    [
        (("--cpu", "4"), Needs(cpus=4)),
        (("--memory", "16GB"), Needs(memory_bytes=16 * GB)),
        (("--gpu", "2"), Needs(gpus=2)),
        (("--gpu", "A100:40GB:2"), Needs(0, 0, 2, "A100", 40 * GB)),
        (("--gpu-name", "V100"), Needs(gpus=1, gpu_name="V100")),
        (("--gpu-memory", "16GB"), Needs(gpus=1, gpu_memory_bytes=16 * GB)),
        (("--gpu", "0", "--gpu-name", "V100"), Needs()),
        (("--shm-size", "8GB"), Needs(shm_bytes=8 * GB)),
    ],
)
def test_2_1_7_resources(args: tuple[str, ...], needs: Needs) -> None:
    assert [job.needs for job in both(*args, "--lr", "1")] == [needs, needs]
    assert named(*args, "--lr", "1").commands == ("python t.py --lr 1",)


@pytest.mark.parametrize("flag", ["-p", "--ports"])
def test_2_1_8_a_number_of_ports(flag: str) -> None:
    bash = "provider: bash\ncommands: [a]\n"
    assert len(job_of(bash, (flag, "2")).ports) == 2
    (job,) = plan_of(project_of("workflows: []"), "bash", "-c", "a", flag, "2").jobs
    assert len(job.ports) == 2


@pytest.mark.parametrize("flag", ["-l", "--local"])
def test_2_1_10_local(flag: str) -> None:
    assert read([flag, "x"]).placement == read(["x", flag]).placement == "local"


def test_2_1_11_remote() -> None:
    assert read(["x", "--remote"]).placement == "remote"
    assert read(["--remote=lab-1", "x"]).placement == "lab-1"


def test_2_1_12_ssh_and_no_ssh() -> None:
    bash = "provider: bash\ncommands: [a]\n"
    for written, flags, entered in (
        ("", ("--ssh",), True),
        ("ssh: false\n", ("--ssh",), True),
        ("ssh: true\n", ("--no-ssh",), False),
        ("ssh: true\n", (), True),
    ):
        assert any(app.ssh for app in job_of(bash + written, flags).apps) is entered
    (job,) = plan_of(project_of("workflows: []"), "bash", "-c", "a", "--ssh").jobs
    assert [app.ssh for app in job.apps] == [True] and job.commands[1:] == ("a",)
    docker = "provider: docker\nimage: a\ncommands: [b]\n"
    assert any(app.ssh for app in job_of(docker, ("--ssh",)).apps)
    assert named("--ssh").commands == ("python t.py --ssh",)


def test_a_flag_that_the_provider_does_not_take_is_never_dropped() -> None:
    docker = "workflows: [{name: x, provider: docker, image: a, commands: [b]}]"
    assert codes_of(project_of(docker), "x", "-r", "a.txt") == [Code.UNUSED_ARGUMENTS]
    assert named("-p", "2").commands == ("python t.py -p 2",)
