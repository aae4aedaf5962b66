"""What a container may do, what is told to whom, and what it reaches."""

import asyncio
import base64
import contextlib
import http.server
import json
import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from dstack_agent.executor import halves
from dstack_agent.executor.port import Ended
from dstack_mesh.faults import Refused
from dstack_scheduler.needs import Needs
from dstack_scheduler.secret import RegistryAuth
from support.container_bench import PERSON, Bench
from support.eventually import eventually
from support.launches import written

pytestmark = pytest.mark.docker

OF_THE_ENGINE = ("ConsoleSize", "MaskedPaths", "NetworkMode", "ReadonlyPaths", "RestartPolicy")
"""What differs from one version of the engine to the next, and what other tests look at."""


GOLDEN = Path(__file__).parent / "golden" / "container.json"


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
