"""Five agents as people run them, each on a machine of its own, and what they believe."""

import re
import signal
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import netns
from support.eventually import eventually
from support.lab import Daemon, Peer, project
from support.meshes import Mesh

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "-"),
]

WORKFLOWS = """workflows:
  - name: long
    provider: bash
    commands: [until test -e "$GO"; do sleep 0.1; done, exit 7]
"""

NAMES = tuple(f"ws-{number}" for number in range(1, 6))
SAID = re.compile(r"membership\.roll: (\S+) is (\w+), was (\w+)")


@dataclass(frozen=True, slots=True)
class Lab:
    """The agents by name."""

    daemons: dict[str, Daemon]
    hosts: dict[str, netns.Host]

    def history(self, name: str) -> list[tuple[str, str]]:
        """Whom an agent believed to be what, as its log says it."""
        log = self.daemons[name].log.read_text()
        return [(about, standing) for about, standing, _ in SAID.findall(log)]

    def believes(self, name: str) -> dict[str, str]:
        """What it believes now."""
        return dict(self.history(name))

    def all_believe(self, about: str, *standings: str) -> bool:
        """Whether all others believe one of these of an agent."""
        others = [name for name in NAMES if name != about]
        return all(self.believes(one).get(about) in standings for one in others)

    def all_alive(self) -> bool:
        return all(self.all_believe(name, "alive") for name in NAMES)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    mesh = Mesh.make(folder / "root")
    with netns.lan(NAMES) as hosts, ExitStack() as stack:
        peers = [Peer(name, mesh.admit(folder / name).root, hosts[name].prefix) for name in NAMES]
        made = Lab({peer.name: stack.enter_context(peer.runner()) for peer in peers}, hosts)
        began = time.monotonic()
        eventually(made.all_alive, within=3)
        print(f"all found {time.monotonic() - began:.1f} s after the last one was ready")
        yield made


def test_the_command_shows_everybody(lab: Lab) -> None:
    listed = lab.daemons["ws-1"].peer.json("agents")["items"]
    assert {(one["agent"], one["state"]) for one in listed} == {(name, "alive") for name in NAMES}


def test_a_killed_agent_is_gone_for_everybody_within_10_s_and_alive_when_it_is_back(
    lab: Lab,
) -> None:
    began = time.monotonic()
    lab.daemons["ws-2"].kill()
    eventually(lambda: lab.all_believe("ws-2", "gone"), within=10)
    print(f"gone for everybody {time.monotonic() - began:.1f} s after kill -9")
    lab.daemons["ws-2"].log.unlink()
    lab.daemons["ws-2"].start()
    eventually(lab.all_alive, within=5)


def test_behind_a_one_way_cut_nobody_is_gone_and_no_job_is_given_again(
    lab: Lab, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    work = project(tmp_path / "work", WORKFLOWS.replace("$GO", str(go)))
    peer = lab.daemons["ws-1"].peer
    run = peer.dstack("run", "long", "--agent", "ws-2", "-d", "-q", cwd=work, check=True)
    name = run.stdout.decode().strip()
    before = {one: len(lab.history(one)) for one in NAMES}

    def listed() -> str:
        items = peer.json("agents")["items"]
        return next(one["state"] for one in items if one["agent"] == "ws-2")

    lab.hosts["ws-2"].drop_from(lab.hosts["ws-1"])
    try:
        eventually(lambda: listed() == "suspect", within=20)  # it does not answer, others hear it
        until = time.monotonic() + 12  # a death is known everywhere within ten seconds
        while time.monotonic() < until:
            assert listed() == "suspect"
    finally:
        lab.hosts["ws-2"].flush()
    said = [entry for one in NAMES for entry in lab.history(one)[before[one] :]]
    assert "gone" not in {standing for _, standing in said}, said
    go.touch()
    assert peer.dstack("wait", name, timeout=60).returncode == 7
    (ended,) = peer.json("ps", name)["items"]
    (job,) = ended["jobs"]
    assert (job["agent"], job["attempt"], job["status"]) == ("ws-2", 1, "failed")


def test_an_agent_that_stood_still_suspects_nobody_and_nobody_stays_gone(lab: Lab) -> None:
    frozen = lab.daemons["ws-3"]
    assert frozen.process is not None
    before = lab.history("ws-3")
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        thaw_at = time.monotonic() + 15
        eventually(lambda: lab.all_believe("ws-3", "gone"), within=10)
        eventually(lambda: time.monotonic() >= thaw_at, within=16)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    eventually(lab.all_alive, within=10)
    print(f"alive for everybody {time.monotonic() - began:.1f} s after SIGCONT")
    # Its own silence told it nothing about the others.
    judged_at = time.monotonic() + 5
    eventually(lambda: time.monotonic() >= judged_at, within=6)
    assert lab.history("ws-3") == before
    assert lab.all_alive()


def test_a_stopped_agent_has_left_for_everybody_within_2_s_and_is_suspected_by_nobody(
    lab: Lab,
) -> None:
    others = [name for name in NAMES if name != "ws-4"]
    before = {name: len(lab.history(name)) for name in others}
    began = time.monotonic()
    process = lab.daemons["ws-4"].process
    assert process is not None
    process.terminate()
    eventually(lambda: lab.all_believe("ws-4", "left"), within=2)
    print(f"left for everybody {time.monotonic() - began:.1f} s after SIGTERM")
    since = {name: lab.history(name)[before[name] :] for name in others}
    assert since == {name: [("ws-4", "left")] for name in others}
