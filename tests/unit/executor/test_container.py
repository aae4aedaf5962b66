"""What containers get and what they run."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.executor import container
from dstack_agent.executor.container import Image, Mount, Started, secrets_text, started
from dstack_agent.executor.container_task import ContainerTask
from dstack_mesh.faults import Refused
from dstack_scheduler.needs import Needs
from support.launches import spec_of

IMAGE = Image(("/docker-entrypoint.sh",), ("serve",))


def test_without_commands_the_image_runs_what_it_runs() -> None:
    assert started(spec_of(), "", IMAGE, False) == Started(None, None)


def test_an_entrypoint_takes_the_commands_as_its_last_argument() -> None:
    spec = spec_of("echo a", entrypoint=("/bin/bash", "-i", "-c"))
    assert started(spec, "echo a\n", IMAGE, False) == Started(
        ("/bin/bash", "-i", "-c"), ("echo a\n",)
    )


def test_an_entrypoint_alone_replaces_the_image_s_command_too() -> None:
    assert started(spec_of(entrypoint=("/x",)), "", IMAGE, False) == Started(("/x",), ())


def test_secrets_reach_the_image_s_own_command() -> None:
    runs = started(spec_of(), "", IMAGE, True)
    assert runs.entrypoint is not None and runs.entrypoint[:2] == ("/bin/sh", "-c")
    assert runs.command == ("/docker-entrypoint.sh", "serve")


@pytest.mark.parametrize("shell", ["bash", "dash"])
@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_secret_arrives_as_it_is(shell: str, value: str) -> None:
    """The wrapper reads it from standard input; no file, no argument, no variable of the engine."""
    runs = started(spec_of("x"), 'printf %s "$TOKEN"', IMAGE, True)
    assert runs.entrypoint is not None and runs.command is not None
    lines = secrets_text({"TOKEN": value}).replace("/run/secrets/", "/dev/null; :")
    ended = subprocess.run(
        (shell, *runs.entrypoint[1:], *runs.command), input=lines.encode(), capture_output=True
    )
    assert ended.stdout == value.encode()


def test_secrets_that_arrive_in_part_start_nothing() -> None:
    runs = started(spec_of("x"), "echo started", IMAGE, True)
    assert runs.entrypoint is not None and runs.command is not None
    whole = secrets_text({"TOKEN": "s3cret"}).replace("/run/secrets/", "/dev/null; :")
    cut = whole[: whole.rindex("DSTACK")]
    ended = subprocess.run(
        (*runs.entrypoint, *runs.command), input=cut.encode(), capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"secrets did not arrive" in ended.stderr


def test_a_container_has_the_job_s_own_folders_and_nothing_else(tmp_path: Path) -> None:
    spec = spec_of("true", artifacts=("models", "/data/out", "~/.cache"))
    outside = tmp_path / "outside"
    assert container.mounts(spec, tmp_path, tmp_path / "work") == [
        Mount(tmp_path / "work", container.WORK),
        Mount(outside / "home/dstack", container.PurePosixPath("/home/dstack")),
        Mount(outside / "data/out", container.PurePosixPath("/data/out")),
    ]


def test_where_a_container_starts_in_its_image_its_relative_paths_are_mounted(
    tmp_path: Path,
) -> None:
    spec = spec_of(working_dir="/app", artifacts=("out", "/data"), cache=("build", "/usr"))
    placed = container.mounts(spec, tmp_path, tmp_path / "work")
    targets = ["/workflow", "/home/dstack", "/app/build", "/app/out", "/data"]
    assert [str(each.target) for each in placed] == targets
    assert str(container.working_dir(spec)) == "/app"


@pytest.mark.parametrize(
    ("path", "lies"),
    [("/workflow/a", "work/a"), ("/data/out/a", "outside/data/out/a"), ("/data", None)],
)
def test_what_lies_behind_a_path_of_a_container(
    tmp_path: Path, path: str, lies: str | None
) -> None:
    spec = spec_of(artifacts=("/data/out",))
    placed = container.mounts(spec, tmp_path, tmp_path / "work")
    found = container.behind(container.PurePosixPath(path), placed)
    assert found == (None if lies is None else tmp_path / lies)


@pytest.mark.parametrize(
    "path", ["/", "/proc/1", "/sys", "/dev/shm", "/etc", "/run/secrets", "/a/../etc", "/workflow"]
)
def test_a_path_that_belongs_to_the_container_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(Refused) as refused:
        container.mounts(spec_of("true", artifacts=(path,)), tmp_path, tmp_path / "work")
    assert refused.value.code == "path-not-allowed"


def test_limits_are_those_that_were_asked_for() -> None:
    assert container.limits(spec_of("true")) == {"pids_limit": 4096}
    needs = Needs(cpus=2, memory_bytes=10**9, shm_bytes=10**8)
    assert container.limits(spec_of("true", needs=needs)) == {
        "pids_limit": 4096,
        "mem_limit": 10**9,
        "memswap_limit": 10**9,
        "nano_cpus": 2 * 10**9,
        "shm_size": 10**8,
    }


def test_what_is_stored_for_another_shim_holds_no_secret() -> None:
    task = ContainerTask("/s", "abc", given="export TOKEN=" + shlex.quote("canary-4711"))
    assert ContainerTask.decode(task.encode()).given == task.given
    stored = task.without_secrets()
    assert b"canary" not in stored.encode()
    assert ContainerTask.decode(stored.encode()).adopt
