"""One card and several who want it: waiting says why, and ends well or is given up."""

import subprocess
from collections.abc import Iterator

import pytest

from support.alone import alone
from support.eventually import eventually
from support.lab import DSTACK, Peer, said

HOLD = "trap 'exit 0' TERM; echo up; while true; do sleep 0.05; done"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("cli"), DSTACK_GPUS="V100:16GB") as peer:
        yield peer


@pytest.fixture
def holder(home: Peer) -> Iterator[str]:
    """A run that has the card."""
    submitted = home.dstack("run", "bash", "-c", HOLD, "--gpu", "1", "-d", "-q", check=True)
    name = submitted.stdout.decode().strip()
    yield name
    home.dstack("stop", "-x", name, check=True)


def status(home: Peer, name: str) -> str:
    return str(home.json("ps", name)["items"][0]["status"])


def waiting(home: Peer, *arguments: str) -> tuple[subprocess.Popen[bytes], bytes]:
    """A run that waits, and what it said about it."""
    running = home.popen(
        (*DSTACK, "run", "bash", "-c", "echo mine", "--gpu", "1", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stderr is not None
    running.stderr.readline()
    return running, running.stderr.readline()


def test_who_waits_is_told_who_has_it_and_starts_when_it_is_free(home: Peer, holder: str) -> None:
    running, reason = waiting(home)
    assert holder.encode() in reason
    home.dstack("stop", holder, check=True)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (0, b"mine\n"), err


def test_giving_up_before_it_was_accepted_starts_nothing(home: Peer, holder: str) -> None:
    running, _ = waiting(home)
    before = len(home.json("ps", "-a")["items"])
    running.terminate()
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Cancelled. Nothing was started." in err
    assert out == b""
    assert len(home.json("ps", "-a")["items"]) == before
    assert status(home, holder) == "running"


def test_a_detached_run_waits_by_itself_and_starts_when_it_can(home: Peer, holder: str) -> None:
    submitted = home.dstack("run", "bash", "-c", "echo mine", "--gpu", "1", "-d", "-q")
    assert submitted.returncode == 0, said(submitted)
    name = submitted.stdout.decode().strip()
    eventually(lambda: status(home, name) == "waiting", within=10, every=0.2)
    home.dstack("stop", holder, check=True)
    waited = home.dstack("wait", name, "--timeout", "30")
    assert waited.returncode == 0, said(waited)
    assert home.dstack("logs", name).stdout == b"mine\n"


def test_a_waiting_run_can_be_stopped(home: Peer, holder: str) -> None:
    name = (
        home.dstack("run", "bash", "-c", "true", "--gpu", "1", "-d", "-q").stdout.decode().strip()
    )
    eventually(lambda: status(home, name) == "waiting", within=10, every=0.2)
    [agent] = home.json("explain", name)["jobs"][0]["agents"]
    assert (agent["verdict"], agent["reasons"][0]["code"]) == ("later", "gpu-busy")
    assert holder in home.dstack("explain", name, check=True).stdout.decode()
    stopped = home.dstack("stop", name)
    assert stopped.returncode == 0, said(stopped)
    assert status(home, name) == "stopped"


def test_agents_shows_the_declared_card_and_who_has_it(home: Peer, holder: str) -> None:
    [agent] = home.json("agents")["items"]
    [gpu] = agent["gpus"]
    assert (gpu["name"], gpu["simulated"], gpu["free"]) == ("V100", True, False)
    assert agent["running"] == [holder]
    assert "0/1" in home.dstack("agents", check=True).stdout.decode()
