"""Jobs in containers of a real engine."""

import os
import time
from pathlib import Path

import pytest

from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.port import Ended
from dstack_mesh.faults import Refused
from dstack_mesh.machine import Gpu
from dstack_scheduler.needs import Needs
from support.container_bench import PERSON, Bench
from support.docker_lab import DockerLab
from support.eventually import eventually
from support.launches import written

pytestmark = pytest.mark.docker


async def test_ten_megabytes_of_anything_arrive_byte_for_byte(bench: Bench) -> None:
    ended, folder = await bench.run(
        "head -c 10000000 /dev/urandom | tee out",
        "head -c 10000000 /dev/urandom | tee err >&2",
    )
    work = folder / "work"
    assert ended == Ended(0)
    assert written(folder) == ((work / "out").read_bytes(), (work / "err").read_bytes())
    assert bench.containers(folder) == []


async def test_files_belong_to_the_person(bench: Bench) -> None:
    ended, folder = await bench.run(
        "touch here",
        "touch ~/home",
        "touch /data/out/there",
        artifacts=("/data/out",),
        working_dir="deep",
    )
    assert ended == Ended(0)
    person = PERSON if os.getuid() == 0 else os.getuid()
    for path in ("work/deep/here", "outside/home/dstack/home", "outside/data/out/there"):
        assert (folder / path).stat().st_uid == person, path


async def test_where_it_starts_below_a_folder_of_the_job_the_person_may_write(bench: Bench) -> None:
    ended, folder = await bench.run(
        "pwd", "touch here", artifacts=("/data/out",), working_dir="/data/out/deep"
    )
    assert ended == Ended(0)
    assert written(folder)[0] == b"/data/out/deep\n"
    person = PERSON if os.getuid() == 0 else os.getuid()
    assert (folder / "outside/data/out/deep/here").stat().st_uid == person


@pytest.mark.parametrize("code", [0, 3])
async def test_the_exit_code_is_the_job_s_own(bench: Bench, code: int) -> None:
    ended, _ = await bench.run(f"exit {code}")
    assert (ended.exit_code, ended.reason) == (code, "")


async def test_a_missing_command_is_called_so(bench: Bench) -> None:
    ended, _ = await bench.run("no-such-command")
    assert (ended.exit_code, ended.reason) == (127, "command-not-found")


@pytest.mark.parametrize("name", ["localhost:9/nobody/nothing:1", "Not An Image"])
async def test_a_missing_image_is_called_so(bench: Bench, name: str) -> None:
    launch = bench.launch("true", image=name)
    with pytest.raises(Refused) as refused:
        await bench.executor.launch(launch)
    assert refused.value.code == "image-missing"
    assert name in refused.value.what
    assert bench.containers(launch.folder) == []


async def test_an_engine_that_does_not_run_is_called_so(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        await DockerExecutor(tmp_path / "no.sock").launch(bench.launch("true"))
    assert (refused.value.code, "start docker" in refused.value.hint) == ("no-docker", True)


async def test_out_of_memory_is_called_so(bench: Bench) -> None:
    ended, _ = await bench.run(
        "head -c 300m /dev/zero | tail >/dev/null", needs=Needs(memory_bytes=40_000_000)
    )
    assert (ended.exit_code, ended.reason) == (137, "out-of-memory")


async def test_a_child_killed_for_memory_under_a_living_shell_is_no_failure(bench: Bench) -> None:
    """The engine says OOMKilled then too; the exit code is what counts."""
    ended, _ = await bench.run(
        "head -c 300m /dev/zero | tail >/dev/null || true", needs=Needs(memory_bytes=40_000_000)
    )
    assert ended == Ended(0)


async def test_a_stop_ends_it_within_the_grace_and_a_program_may_save(bench: Bench) -> None:
    saving = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    folder = await bench.start(f'sh -c "{saving}"', "echo never")
    eventually(lambda: written(folder)[0], within=20)
    await bench.executor.stop(folder, abort=False)
    ended = await bench.end(folder)
    assert ended.reason == "stopped"
    assert written(folder)[0] == b"ready\nsaved\n"


async def test_a_job_that_ignores_a_stop_is_ended_after_the_grace(bench: Bench) -> None:
    commands = ("trap '' TERM", "echo ready", "while :; do sleep 0.1; done")
    folder = await bench.start(*commands, stop_grace_seconds=1.0)
    eventually(lambda: written(folder)[0], within=20)
    began = time.monotonic()
    await bench.executor.stop(folder, abort=False)
    ended = await bench.end(folder)
    assert (ended.exit_code, ended.reason) == (137, "stopped")
    assert 0.9 < time.monotonic() - began < 5


async def test_an_abort_ends_it_at_once(bench: Bench) -> None:
    folder = await bench.start("trap '' TERM", "echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    began = time.monotonic()
    await bench.executor.stop(folder, abort=True)
    ended = await bench.end(folder)
    assert (ended.exit_code, ended.reason) == (137, "aborted")
    assert time.monotonic() - began < 5
    assert bench.containers(folder) == []


async def test_a_job_that_runs_too_long_is_ended(bench: Bench) -> None:
    ended, _ = await bench.run("sleep 100", max_duration_seconds=0.5)
    assert ended.reason == "time-limit"


async def test_the_image_s_own_command_and_entrypoints_run(bench: Bench, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "Dockerfile").write_text(
        f'FROM {bench.image}\nENTRYPOINT ["/bin/echo", "from"]\nCMD ["the image"]\n'
    )
    bench.lab.docker("build", "-t", "dstack-lab/own:1", str(recipe))
    for changes, said in (
        ({"image": "dstack-lab/own:1"}, b"from the image\n"),
        (
            {"image": "dstack-lab/own:1", "secrets": {"A": "b"}, "secret_names": ("A",)},
            b"from the image\n",
        ),
        ({"entrypoint": ("/bin/echo", "alone")}, b"alone\n"),
    ):
        ended, folder = await bench.run(**changes)
        assert (ended, written(folder)[0]) == (Ended(0), said)
    ended, folder = await bench.run("echo a", "echo b", entrypoint=("/bin/sh", "-c"))
    assert (ended, written(folder)[0]) == (Ended(0), b"a\nb\n")


async def test_commands_longer_than_an_argument_run(bench: Bench) -> None:
    ended, folder = await bench.run("echo " + "x" * 300_000)
    assert (ended, len(written(folder)[0])) == (Ended(0), 300_001)


async def test_a_card_that_docker_cannot_give_is_said_and_nothing_is_left(bench: Bench) -> None:
    if bench.lab.docker("info", "-f", "{{json .Runtimes}}").stdout.find(b"nvidia") >= 0:
        pytest.skip("this engine can give cards")
    card = Gpu(f"GPU-{os.getpid()}", "Tesla V100", 16 << 30)
    ended, folder = await bench.run("true", gpus=(card,))
    assert (ended.exit_code, ended.reason) == (None, "docker-error")
    assert bench.containers(folder) == []


async def test_an_absolute_path_of_the_container_itself_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused) as refused:
        await bench.executor.launch(bench.launch("true", artifacts=("/proc/x",)))
    assert refused.value.code == "path-not-allowed"


async def test_bash_is_used_where_the_image_has_it(
    docker_lab: DockerLab, python_image: str, tmp_path: Path
) -> None:
    bench = Bench(docker_lab, python_image, tmp_path)
    ended, folder = await bench.run(
        "[[ -n $BASH ]] && echo bash",
        "python -c 'import getpass; print(getpass.getuser())'",
        "git --version",
    )
    assert ended == Ended(0)
    assert written(folder)[0].startswith(b"bash\ndstack\ngit version")
