"""Random secrets through runs, kills and failures: none is anywhere but in the jobs that got it.

A round is one run of each kind with its own secrets. `DSTACK_CHAOS_ROUNDS=10` makes 1,000 of them.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_cli.secret_store import SecretStore
from dstack_mesh.home import Home
from support.canaries import Canaries, memory_folders
from support.docker_lab import DockerLab, busybox, docker_lab
from support.eventually import eventually
from support.lab import DSTACK, Daemon, Peer, join_mesh, make_peer, project, said
from support.launches import shim_pid
from support.rounds import rounds, seeded

__all__ = ["busybox", "docker_lab"]

pytestmark = pytest.mark.chaos

EACH = 10
"""Secrets of one run, of which one is also filled into a variable."""

# The job prints some of what it has, and says how much of it came. It goes on when it is told to.
COMMANDS = """
      - echo ready; while [ ! -e {go} ]; do sleep 0.05; done
      - echo "$CANARY_0"; echo "$FILLED" >&2; echo ${{#CANARY_1}} ${{#FILLED}}
      - if [ "$DSTACK_SECRETS_DIR" ]; then cat "$DSTACK_SECRETS_DIR/CANARY_2"; fi
      - printf %s "$CANARY_3" | base64
      - if [ "$DSTACK_SECRETS_DIR" ]; then ls "$DSTACK_SECRETS_DIR" | wc -l; else echo {files}; fi
      - exit {code}
"""

HEAD = """
  - name: {name}
    {how}
    secrets: [{names}]
    cache: [kept]
    env: ["FILLED=x-${{{{ secrets.CANARY_9 }}}}-y"]
    commands:"""


@dataclass
class Yard:
    """A workstation and a laptop of one mesh, and what the laptop submits."""

    station: Peer
    laptop: Peer
    folder: Path
    daemon: Daemon
    docker: DockerLab | None = None

    @property
    def searched(self) -> list[Path]:
        return [self.station.home, self.laptop.home, self.folder]

    def code(self, name: str, how: str, go: str, code: int) -> Path:
        names = ", ".join(f"CANARY_{number}" for number in range(EACH - 1))
        workflow = HEAD.format(name=name, how=how, names=names) + COMMANDS.format(
            go=go, code=code, files=EACH - 1
        )
        return project(self.folder / name, f"workflows:{workflow}")

    def start(self, name: str, code: Path) -> "subprocess.Popen[bytes]":
        return self.laptop.popen(
            (*DSTACK, "run", name, "--remote"),
            cwd=code,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )

    def job_folder(self) -> Path:
        """Of the newest job."""
        folders = (each for each in (self.station.home / "jobs").iterdir() if each.is_dir())
        return max(folders, key=lambda each: each.stat().st_mtime_ns)

    def told(self, run: str) -> bytes:
        """All that the commands say of a run, from both sides."""
        looked = [
            self.laptop.dstack("status", run, "--json"),
            self.laptop.dstack("logs", run),
            self.station.dstack("ps", "-a", "--json"),
        ]
        return b"".join(each.stdout + each.stderr for each in looked)


@pytest.fixture
def yard(tmp_path: Path, free_port: int) -> Iterator[Yard]:
    yield from _yard(tmp_path, free_port, None)


@pytest.fixture
def docker_yard(tmp_path: Path, free_port: int, docker_lab: DockerLab) -> Iterator[Yard]:
    yield from _yard(tmp_path, free_port, docker_lab)


def _yard(folder: Path, port: int, docker: DockerLab | None) -> Iterator[Yard]:
    env = {"DSTACK_MDNS": "0"} | ({"DOCKER_HOST": docker.host} if docker else {})
    station = make_peer(folder, "ws", (), **env)
    laptop = make_peer(folder, "laptop", DSTACK_MDNS="0", DSTACK_SEEDS=f"127.0.0.1:{port}")
    join_mesh(station, laptop)
    with station.runner("--listen", f"127.0.0.1:{port}") as daemon:
        yield Yard(station, laptop, folder / "code", daemon, docker)


def nothing(yard: Yard) -> None:
    """The job runs undisturbed."""


def kill_agent(yard: Yard) -> None:
    """kill -9 of the agent while the job runs; another one finds it again."""
    yard.daemon.kill()
    yard.daemon.start(ready_within=60)  # how fast is what other tests look at


def kill_shim(yard: Yard) -> None:
    """kill -9 of what owns the container's output; another one goes on."""
    folder = yard.job_folder()
    before = shim_pid(folder)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: shim_pid(folder) != before, within=20)


def a_run(
    yard: Yard, canaries: Canaries, name: str, how: str, code: int, trouble: Callable[[Yard], None]
) -> None:
    """One run with secrets, looked for while it runs and once it ended."""
    go = "/workflow/go" if yard.docker else "go"
    folder = yard.code(name, how, go, code)
    store = SecretStore.of_folder(Home(yard.laptop.home), folder)
    for secret, value in canaries.values.items():
        store.put(secret, value, over=False)
    with yard.start(name, folder) as running:
        try:
            _watched(yard, canaries, running, code, trouble)
        finally:
            running.kill()


def _watched(
    yard: Yard,
    canaries: Canaries,
    running: "subprocess.Popen[bytes]",
    code: int,
    trouble: Callable[[Yard], None],
) -> None:
    assert running.stdout is not None
    if running.stdout.read(6) != b"ready\n":
        raise AssertionError(running.communicate(timeout=30))
    trouble(yard)
    job = yard.job_folder()
    assert canaries.in_arguments() == set()
    assert canaries.in_environments_but([str(job).encode(), b"DSTACK_JOB_ID="]) == set()
    if yard.docker is not None:
        ids = yard.docker.containers(f"run.dstack.folder={job}")
        assert len(ids) == 1
        assert canaries.in_bytes(yard.docker.docker("inspect", *ids).stdout) == set()
    (job / "work" / "go").touch()
    out, err = running.communicate(timeout=90)
    assert running.returncode == code, out + err
    lengths = [len(canaries.values["CANARY_1"].encode()), len(canaries.values["CANARY_9"].encode())]
    assert _printed_lengths(out)[0] in (lengths[0], len(canaries.values["CANARY_1"]))
    assert out.split()[-1] == str(EACH - 1).encode()
    assert b"****" in out and b"****" in err
    run = yard.laptop.json("ps", "-a")["items"][0]["run"]
    assert canaries.in_bytes(out + err + yard.told(run)) == set()


def _printed_lengths(out: bytes) -> list[int]:
    lines = (each.split() for each in out.splitlines())
    words = next(each for each in lines if len(each) == 2 and all(map(bytes.isdigit, each)))
    return [int(word) for word in words]


def nowhere(yard: Yard, canaries: Canaries) -> None:
    """Nothing is left of the secrets but what the laptop keeps for the next run."""
    kept = Home(yard.laptop.home).secrets
    searched = [*yard.searched, *memory_folders()]
    if yard.docker is not None:
        searched.append(yard.docker.socket.parent)
    assert canaries.in_folders(searched, without=[kept]) == set()
    # The search finds one that is there: the store of the laptop, and a planted one.
    assert len({each.split()[0] for each in canaries.in_folders([kept])}) == len(canaries.values)
    planted = yard.station.home / "state" / "planted"
    name, value = next(iter(canaries.values.items()))
    planted.write_text(json.dumps({"leak": value}))
    assert {each.split()[0] for each in canaries.in_folders(yard.searched, [kept])} == {name}
    planted.unlink()
    assert canaries.in_bytes(value.encode()) == {name}


TROUBLES: tuple[tuple[str, int, Callable[[Yard], None]], ...] = (
    ("ends-well", 0, nothing),
    ("fails", 3, nothing),
    ("agent-killed", 0, kill_agent),
    ("agent-killed-fails", 4, kill_agent),
    ("ends-again", 0, nothing),
)


def test_secrets_of_processes_are_nowhere_else(yard: Yard) -> None:
    chance = seeded("canaries of processes")
    everything: dict[str, str] = {}
    for round_ in range(rounds(1)):
        for name, code, trouble in TROUBLES:
            canaries = Canaries.hatched(chance, EACH)
            a_run(yard, canaries, f"{name}-{round_}", "provider: bash", code, trouble)
            everything |= {f"{name}-{round_}-{key}": v for key, v in canaries.values.items()}
    nowhere(yard, Canaries(everything))


@pytest.mark.docker
def test_secrets_of_containers_are_nowhere_else(docker_yard: Yard, busybox: str) -> None:
    chance = seeded("canaries of containers")
    everything: dict[str, str] = {}
    for round_ in range(rounds(1)):
        for name, code, trouble in (*TROUBLES[:4], ("shim-killed", 0, kill_shim)):
            canaries = Canaries.hatched(chance, EACH)
            a_run(docker_yard, canaries, f"{name}-{round_}", f"image: {busybox}", code, trouble)
            everything |= {f"{name}-{round_}-{key}": v for key, v in canaries.values.items()}
    nowhere(docker_yard, Canaries(everything))


def test_secrets_of_a_job_that_never_starts_are_nowhere_else(yard: Yard) -> None:
    canaries = Canaries.hatched(seeded("canaries that never start"), EACH)
    folder = yard.code("never", "provider: bash\n    artifacts: [/usr/lib/x]", "go", 0)
    store = SecretStore.of_folder(Home(yard.laptop.home), folder)
    for secret, value in canaries.values.items():
        store.put(secret, value, over=False)
    ended = yard.laptop.dstack("run", "never", "--remote", cwd=folder)
    assert ended.returncode == 125, said(ended)
    assert canaries.in_bytes(ended.stdout + ended.stderr) == set()
    nowhere(yard, canaries)
