"""Jobs in containers that are entered with the person's own ssh; the server is the image's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dstack_agent.executor.environment import Site, environment_of
from dstack_agent.executor.port import Ended
from dstack_agent.executor.sshd import BESIDE, SFTP
from dstack_mesh.faults import Refused
from dstack_mesh.ssh_keys import person_keys, server_keys
from dstack_scheduler.providers.sshd import app_of, beside
from support.container_bench import PERSON, Bench
from support.docker_lab import DockerLab
from support.eventually import eventually_async
from support.launches import launch_of, spec_of, written

TOKEN = "7" * 32
SSHD = shutil.which("sshd", path=f"{BESIDE}:/usr/bin")
NEEDS = "" if SSHD and shutil.which("ssh") else "this needs ssh and sshd"

pytestmark = [pytest.mark.docker, pytest.mark.skipif(bool(NEEDS), reason=NEEDS)]


@pytest.fixture(scope="module")
def image(docker_lab: DockerLab, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small shell with the OpenSSH of this machine, and an account of its own."""
    folder = tmp_path_factory.mktemp("image")
    sftp = shutil.which("sftp-server", path=os.pathsep.join(SFTP))
    for program in filter(None, (SSHD, sftp)):
        listed = subprocess.run(("ldd", program), capture_output=True, check=True).stdout.decode()
        for path in (program, *re.findall(r"/\S+", listed)):
            there = folder / "root" / path.removeprefix("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, there)
    (folder / "root/etc").mkdir()
    (folder / "root/etc/passwd").write_text(f"node:x:{PERSON}:{PERSON}::/nowhere:/bin/false\n")
    (folder / "Dockerfile").write_text(f"FROM {busybox}\nCOPY root/ /\n")
    docker_lab.docker("build", "-q", "-t", "dstack-lab/sshd:1", str(folder))
    return "dstack-lab/sshd:1"


class Entered:
    """A job in a container, and the files of whoever enters it."""

    def __init__(self, bench: Bench, folder: Path, files: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.files = files
        self.port = 0

    async def until_it_listens(self) -> None:
        async def spot() -> int:
            (found,) = await self.bench.executor.spots(self.folder, (2222,))
            return found.port if found is not None else 0

        self.port = await eventually_async(spot, within=20)

    def ssh(
        self, *words: str, given: bytes = b"", key: str = "key"
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            (
                *("ssh", "-F", "none", "-i", self.files / key, "-o", "BatchMode=yes"),
                *("-o", f"UserKnownHostsFile={self.files}/known_hosts", "-o", "HostKeyAlias=job"),
                *("-o", "IdentitiesOnly=yes", "-p", str(self.port), *words),
            ),
            input=given,
            capture_output=True,
            timeout=30,
            check=False,
        )


def lay_keys(files: Path) -> None:
    files.mkdir(mode=0o700)
    for name, text in (
        ("key", person_keys(TOKEN).private),
        ("other", person_keys("8" * 32).private),
        ("known_hosts", f"job {server_keys(TOKEN).public}\n"),
    ):
        (files / name).touch(mode=0o600)
        (files / name).write_text(text)


async def start(bench: Bench, files: Path, image: str, *commands: str) -> Entered:
    made = bench.launch(*commands, image=image)
    spec = spec_of(
        *commands,
        key=made.spec.key,
        image=image,
        apps=(app_of(),),
        ports=(0,),
        secret_names=("SECRET",),
        working_dir="deep",
    )
    env = environment_of(spec, (), Site("ws-2", "10.0.0.7", (2222,), "0.0.0.0"), made.folder, {})
    shutil.rmtree(made.folder)
    launch = launch_of(
        *(made.folder, spec), env=env, ports=(2222,), ssh=TOKEN, secrets={"SECRET": "a 'b'"}
    )
    if os.getuid() == 0:
        os.chown(launch.work, PERSON, PERSON)
    await bench.executor.launch(launch)
    lay_keys(files)
    return Entered(bench, launch.folder, files)


async def test_a_container_is_entered_as_the_job_that_it_runs(
    bench: Bench, tmp_path: Path, image: str
) -> None:
    commands = ("export LATER='c d'", beside(), "while [ ! -e go ]; do sleep 0.05; done")
    job = await start(bench, tmp_path / "files", image, *commands)
    await job.until_it_listens()
    own = "dstack@127.0.0.1"
    asked = "pwd; echo $SECRET, $LATER, $HOME; id -u; ls ~/.. /run/secrets; exit 7"
    ended = job.ssh(own, asked)
    uid = PERSON if os.getuid() == 0 else os.getuid()
    assert ended.returncode == 7, ended.stderr
    said = f"/workflow/deep\na 'b', c d, /home/dstack\n{uid}\n"
    assert ended.stdout.decode() == f"{said}/home/dstack/..:\ndstack\n\n/run/secrets:\nSECRET\n"
    assert b"/workflow/deep" in job.ssh("-tt", own, given=b"pwd; exit\n").stdout
    assert job.ssh(own, given=b"echo $LATER\n").stdout == b"c d\n"
    (container,) = bench.containers(job.folder)
    inspected = bench.lab.docker("inspect", container).stdout.decode()
    assert "a 'b'" not in inspected and TOKEN not in inspected
    refused = job.ssh(own, "true", key="other")
    assert (refused.returncode, b"denied" in refused.stderr) == (255, True)
    assert job.ssh(own, "touch go").returncode == 0
    assert await bench.end(job.folder) == Ended(0)


async def test_an_image_without_a_server_says_so_and_the_job_goes_on(
    bench: Bench, tmp_path: Path
) -> None:
    commands = (beside(), "sleep 0.3; echo done")
    job = await start(bench, tmp_path / "files", bench.image, *commands)
    assert await bench.end(job.folder) == Ended(0)
    out, err = written(job.folder)
    assert out == b"done\n"
    assert b"its image has no sshd (apt-get install openssh-server)" in err


async def test_root_s_container_is_not_entered(bench: Bench, tmp_path: Path, image: str) -> None:
    if os.getuid() != 0:
        pytest.skip("this needs root")
    launch = bench.launch("true", image=image, apps=(app_of(),), ports=(0,))
    os.chown(launch.work, 0, 0)
    made = launch_of(tmp_path / "job", launch.spec, env=launch.env, ports=(2222,), ssh=TOKEN)
    with pytest.raises(Refused) as refused:
        await bench.executor.launch(made)
    assert refused.value.code == "no-ssh"
