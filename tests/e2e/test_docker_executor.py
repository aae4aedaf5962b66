"""Jobs in containers of a real engine."""

import asyncio
import base64
import contextlib
import http.server
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from dstack_agent.executor import halves, record
from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.environment import Site, environment_of
from dstack_agent.executor.port import Ended, Launch
from dstack_mesh.faults import Refused
from dstack_mesh.ids import RunId
from dstack_mesh.machine import Gpu
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.secret import RegistryAuth
from support.docker_lab import DockerLab
from support.eventually import eventually
from support.launches import launch_of, shim_pid, spec_of, written

pytestmark = pytest.mark.docker
NUMBERS = itertools.count()
PERSON = 12345
OF_THE_ENGINE = ("ConsoleSize", "MaskedPaths", "NetworkMode", "ReadonlyPaths", "RestartPolicy")
"""What differs from one version of the engine to the next, and what other tests look at."""

GOLDEN = Path(__file__).parent / "golden" / "container.json"


class Bench:
    """Runs jobs of a test in containers, as a person who is not root."""

    def __init__(self, lab: DockerLab, image: str, folder: Path) -> None:
        self.lab = lab
        self.image = image
        self.folder = folder
        self.executor = DockerExecutor(lab.socket, agent="peer")

    def launch(self, *commands: str, **changes: Any) -> Launch:
        """A launch in a folder of its own."""
        secrets = changes.pop("secrets", {})
        gpus: tuple[Gpu, ...] = changes.pop("gpus", ())
        key = JobKey(RunId(f"{os.getpid()}r{next(NUMBERS)}"), 0)
        spec = spec_of(*commands, **({"key": key, "image": self.image} | changes))
        folder = self.folder / key.run_id
        env = environment_of(spec, gpus, Site("ws-2", "10.0.0.7"), folder, {})
        made = launch_of(folder, spec, env=env, secrets=secrets, gpus=gpus)
        if os.getuid() == 0:
            os.chown(made.work, PERSON, PERSON)
        return made

    async def start(self, *commands: str, **changes: Any) -> Path:
        """Launches; returns the job's folder."""
        launch = self.launch(*commands, **changes)
        await self.executor.launch(launch)
        return launch.folder

    async def run(self, *commands: str, **changes: Any) -> tuple[Ended, Path]:
        """Runs to the end."""
        folder = await self.start(*commands, **changes)
        return await self.end(folder), folder

    async def end(self, folder: Path) -> Ended:
        async with asyncio.timeout(60):
            return await self.executor.wait(folder)

    def containers(self, folder: Path) -> list[str]:
        return self.lab.containers(f"run.dstack.folder={folder}")


@pytest.fixture
def bench(docker_lab: DockerLab, busybox: str, tmp_path: Path) -> Bench:
    return Bench(docker_lab, busybox, tmp_path)


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


async def test_secrets_are_in_the_job_and_nowhere_else(bench: Bench) -> None:
    canary = "canary 4711 'quoted'\nsecond line"
    folder = await bench.start(
        'printf %s "$TOKEN"; cat /run/secrets/TOKEN >&2',
        "echo ${#TOKEN}; echo $URL | wc -c; sleep 1",
        secrets={"TOKEN": canary, "PASS": "canary-42"},
        secret_names=("TOKEN",),
        env={"URL": "https://me:${{ secrets.PASS }}@host"},
    )
    eventually(lambda: all(written(folder)), within=20)
    (container,) = bench.containers(folder)
    inspected = bench.lab.docker("inspect", container).stdout
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert set(halves.kept(str(folder))) >= {canary, "canary-42"}
    assert await bench.end(folder) == Ended(0)
    hidden = b"*" * 20 + b"\n" + b"*" * 11
    url = len("https://me:canary-42@host\n")
    assert written(folder) == (hidden + f"{len(canary)}\n{url}\n".encode(), hidden)
    assert not any(b"canary" in each for each in (inspected, *files))
    assert halves.kept(str(folder)) == []


async def test_a_container_can_do_no_more_than_it_must(bench: Bench) -> None:
    folder = await bench.start("cat /proc/self/status", "id", "sleep 100")
    eventually(lambda: b"uid=" in written(folder)[0], within=20)
    (container,) = bench.containers(folder)
    config = json.loads(bench.lab.docker("inspect", container).stdout)[0]
    await bench.executor.stop(folder, abort=True)
    await bench.end(folder)
    status = written(folder)[0].decode()
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status
    host = config["HostConfig"]
    assert (host["Privileged"], host["PidsLimit"], host["CapAdd"]) == (False, 4096, None)
    assert (host["PidMode"], host["IpcMode"]) == ("", "private")
    mounted = {each["Source"] for each in config["Mounts"] if each["Type"] == "bind"}
    assert mounted == {str(folder / "work"), str(folder / "outside/home/dstack")}
    assert config["Config"]["Labels"]["run.dstack.agent"] == "peer"


async def test_a_container_is_made_as_the_golden_example_says(bench: Bench) -> None:
    """`DSTACK_REWRITE_GOLDEN=1` writes it anew; what it does not name must be empty."""
    folder = await bench.start(
        "echo up; sleep 100",
        needs=Needs(cpus=1, memory_bytes=64 << 20, shm_bytes=16 << 20),
        artifacts=("/data/out",),
        secrets={"TOKEN": "canary-4711"},
        secret_names=("TOKEN",),
        env={"LD_PRELOAD": "/workflow/jemalloc.so", "NVIDIA_DRIVER_CAPABILITIES": "all"},
    )
    eventually(lambda: written(folder)[0], within=20)
    (container,) = bench.containers(folder)
    config = json.loads(bench.lab.docker("inspect", container).stdout)[0]
    await bench.executor.stop(folder, abort=True)
    await bench.end(folder)
    seen = {
        "HostConfig": {
            key: each
            for key, each in config["HostConfig"].items()
            if each and key not in OF_THE_ENGINE
        },
        "Env": sorted(each for each in config["Config"]["Env"] if "JOB_ID=" not in each),
    }
    text = json.dumps(seen, indent=2, sort_keys=True).replace(str(folder), "FOLDER")
    text = text.replace(folder.name, "RUN").replace(f"{PERSON}", "PERSON") + "\n"
    if os.environ.get("DSTACK_REWRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= {*config["HostConfig"]["MaskedPaths"]}
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= {*config["HostConfig"]["ReadonlyPaths"]}


async def test_images_tell_the_machine_s_hooks_nothing(bench: Bench, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "Dockerfile").write_text(
        f"FROM {bench.image}\n"
        "ENV LD_PRELOAD=/evil.so LD_AUDIT=/evil.so LD_LIBRARY_PATH=/opt/lib KEPT=yes\n"
        "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all NVIDIA_REQUIRE_CUDA=x\n"
    )
    bench.lab.docker("build", "-t", "dstack-lab/hooks:1", str(recipe))
    folder = await bench.start("env; sleep 100", image="dstack-lab/hooks:1")
    eventually(lambda: b"KEPT=yes" in written(folder)[0], within=20)
    (container,) = bench.containers(folder)
    told = json.loads(bench.lab.docker("inspect", container).stdout)[0]["Config"]["Env"]
    await bench.executor.stop(folder, abort=True)
    await bench.end(folder)
    # A name without a value takes the image's variable away.
    hooks = sorted(each for each in told if each.startswith(("LD_", "NVIDIA_")) and "=" in each)
    assert hooks == ["NVIDIA_VISIBLE_DEVICES=void"]
    inside = written(folder)[0].decode().splitlines()
    hooks = sorted(each for each in inside if each.startswith(("LD_", "NVIDIA_")))
    assert hooks == ["LD_LIBRARY_PATH=/opt/lib", "NVIDIA_VISIBLE_DEVICES=void"]


@pytest.mark.parametrize("where", ["/var/run/docker.sock", "/data/x", "~/x"])
async def test_no_link_in_a_job_s_folder_mounts_the_engine_s_socket(
    bench: Bench, where: str
) -> None:
    launch = bench.launch("true", artifacts=(where if where[0] == "/" else "/home/dstack",))
    target = launch.folder / "outside" / (where[1:] if where[0] == "/" else "home/dstack")
    target.parent.mkdir(parents=True)
    target.symlink_to(bench.lab.socket)
    with pytest.raises(Refused) as refused:
        await bench.executor.launch(launch)
    assert refused.value.code == "mount-not-allowed"
    assert bench.containers(launch.folder) == []


async def test_containers_reach_neither_each_other_nor_a_cloud_s_metadata(bench: Bench) -> None:
    if bench.lab.docker("network", "inspect", "bridge", check=False).returncode:
        pytest.skip("this engine has no bridge")
    folders = [await bench.start("echo up; sleep 100") for _ in range(2)]
    for folder in folders:
        eventually(lambda folder=folder: written(folder)[0], within=20)
    one, other = (bench.containers(folder)[0] for folder in folders)
    networks = json.loads(bench.lab.docker("inspect", one).stdout)[0]["NetworkSettings"]["Networks"]
    alone = json.loads(bench.lab.docker("network", "inspect", *networks).stdout)
    others = json.loads(bench.lab.docker("inspect", other).stdout)[0]["NetworkSettings"]["Networks"]
    busybox = ("exec", one, "/bin/busybox")
    routes = bench.lab.docker(*busybox, "ip", "route").stdout.decode()
    listening = asyncio.create_subprocess_exec(
        *("docker", "exec", other, "/bin/busybox", "nc", "-l", "-p", "4444"),
        env=os.environ | {"DOCKER_HOST": bench.lab.host},
    )
    server = await listening
    try:
        tried = [
            await asyncio.to_thread(
                bench.lab.docker, *busybox, "nc", "-w", "1", address, port, check=False
            )
            for address, port in (
                *((each["IPAddress"], "4444") for each in others.values()),
                ("169.254.169.254", "80"),
            )
        ]
    finally:
        if server.returncode is None:  # nobody came, as it should be
            server.kill()
        await server.wait()
        for folder in folders:
            await bench.executor.stop(folder, abort=True)
            await bench.end(folder)
    assert sorted(networks) == ["dstack-jobs", "dstack-no-metadata"]
    assert {each["Options"]["com.docker.network.bridge.enable_icc"] for each in alone} == {"false"}
    assert [each.returncode != 0 for each in tried] == [True] * 3
    # The way to the metadata ends in a network in which nobody is; the machine has no part in it.
    (dead_end,) = (line for line in routes.splitlines() if line.startswith("169.254.169.0/24"))
    assert "via" not in dead_end
    (gateway,) = (line for line in routes.splitlines() if line.startswith("default"))
    assert "169.254" not in gateway


async def test_an_image_is_pulled_with_a_secret_that_nothing_else_is_told(bench: Bench) -> None:
    with registry() as (address, heard):
        launch = bench.launch(
            "true",
            image=f"{address}/lab/private:1",
            registry_auth=RegistryAuth("ana", "${{ secrets.REGISTRY }}"),
            secrets={"REGISTRY": "canary-4711"},
        )
        with pytest.raises(Refused) as refused:
            await bench.executor.launch(launch)
    assert refused.value.code == "image-missing"
    assert "canary" not in f"{refused.value.what} {refused.value.why} {refused.value.hint}"
    assert heard == ["ana:canary-4711"]


@contextlib.contextmanager
def registry() -> Generator[tuple[str, list[str]]]:
    """A registry that asks for a password and has no images: its address, and what it was told."""
    heard: dict[str, None] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            if given:
                heard[base64.b64decode(given).decode()] = None
            self.send_response(404 if given and self.path != "/v2/" else 200 if given else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="lab"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    said: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", said
        finally:
            server.shutdown()
            thread.join()
            said += heard


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


async def test_a_killed_shim_is_replaced_and_no_byte_is_lost_or_doubled(bench: Bench) -> None:
    commands = (
        "i=0; while [ $i -lt 3000 ]; do echo line $i; echo note $i >&2; i=$((i+1)); "
        "[ $((i % 100)) -ne 0 ] || sleep 0.1; done",
        "exit 9",
    )
    folder = await bench.start(*commands)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bench.end(folder))
        for _ in range(3):
            before = len(written(folder)[0])
            pid = shim_pid(folder)
            await asyncio.to_thread(_grown, folder, before + 500)
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(_replaced, folder, pid)
        ended = await waiting
    assert ended.exit_code == 9
    lines = ("".join(f"{word} {i}\n" for i in range(3000)).encode() for word in ("line", "note"))
    assert written(folder) == tuple(lines)
    assert bench.containers(folder) == []


def _grown(folder: Path, size: int) -> None:
    eventually(lambda: len(written(folder)[0]) >= size, within=20)


def _replaced(folder: Path, pid: int) -> None:
    eventually(lambda: shim_pid(folder) != pid, within=20)


async def test_another_agent_stops_a_job_whose_shim_is_dead(bench: Bench) -> None:
    folder = await bench.start("echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    os.kill(shim_pid(folder), signal.SIGKILL)
    later = DockerExecutor(bench.lab.socket)
    await later.stop(folder, abort=False)
    async with asyncio.timeout(30):
        ended = await later.wait(folder)
    assert ended.reason == "stopped"
    assert written(folder)[0] == b"ready\n"


async def test_a_shim_killed_after_it_recorded_the_exit_leaves_no_container(bench: Bench) -> None:
    folder = await bench.start("echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    os.kill(shim_pid(folder), signal.SIGKILL)
    record.write_exit(str(folder), {"exit_code": 3, "reason": "", "cause": ""})
    assert (await bench.end(folder)).exit_code == 3
    assert bench.containers(folder) == []


async def test_a_container_that_somebody_removed_is_not_called_a_success(bench: Bench) -> None:
    folder = await bench.start("echo ready", "sleep 100")
    eventually(lambda: written(folder)[0], within=20)
    (container,) = bench.containers(folder)
    bench.lab.docker("rm", "-f", container)
    ended = await bench.end(folder)
    assert ended.exit_code != 0


async def test_a_job_that_was_never_started_leaves_no_container(bench: Bench) -> None:
    folder = bench.launch("true").folder
    ended = await bench.end(folder)
    assert (ended.exit_code, ended.reason) == (None, "shim-lost")
    assert bench.containers(folder) == []


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
