"""`dstack doctor` names what is wrong: every fault is planted for real on machines of a network."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support import netns
from support.eventually import eventually
from support.lab import DSTACK, RUNNER, Daemon, Peer, make_peer
from support.meshes import Mesh
from support.person import PERSON, as_person, give, persons_folder
from support.watched import Watched
from support.watched import start as start_bare

needs_networks = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "-"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can plant this")

NAMES = ("laptop", "ws-1", "ws-2")
PORT = 7420
SLOWEST_SECONDS = 6.0
"""On a machine that does other things too; alone it is under five."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What doctor said."""

    code: int
    findings: list[dict[str, str]]
    took: float

    def of(self, check: str) -> list[tuple[str, str]]:
        """Grades and causes of a check's findings."""
        return [(one["grade"], one["cause"]) for one in self.findings if one["check"] == check]

    def said(self, check: str) -> str:
        return " ".join(one["message"] for one in self.findings if one["check"] == check)

    def fix(self, check: str) -> str:
        return " ".join(one["fix"] for one in self.findings if one["check"] == check)

    def bad(self) -> set[tuple[str, str, str]]:
        """Whatever is no pass."""
        return {
            (one["check"], one["grade"], one["cause"])
            for one in self.findings
            if one["grade"] != "pass"
        }


def doctor(peer: Peer, *arguments: str, cwd: Path | None = None) -> Seen:
    began = time.monotonic()
    ended = peer.dstack("doctor", *arguments, "--json", cwd=cwd)
    took = time.monotonic() - began
    assert ended.returncode in (0, 1), ended.stderr.decode()
    seen = Seen(ended.returncode, json.loads(ended.stdout)["items"], took)
    for one in seen.findings:
        if one["grade"] != "pass":
            print(f"{one['check']}: {one['grade']} {one['cause']}: {one['message']}")
            print(f"    fix: {one['fix']}")
            assert one["cause"], one
            assert one["fix"], one
    failed = any(one["grade"] == "fail" for one in seen.findings)
    assert seen.code == int(failed)
    return seen


@dataclass(frozen=True, slots=True)
class Lab:
    """A laptop and two workstations of one mesh."""

    mesh: Mesh
    folder: Path
    hosts: dict[str, netns.Host]

    def peer(self, name: str, **env: str) -> Peer:
        return Peer(name, self.folder / name, self.hosts[name].prefix, env)

    @contextmanager
    def agents(self, *names: str, flags: tuple[str, ...] = ()) -> Generator[list[Daemon]]:
        """Agents of these machines while the block runs."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.peer(name).runner(*flags)) for name in names]

    def bare(self, name: str, *arguments: str) -> Watched:
        """The part of an agent that finds others, which can be bent; ended with the network."""
        flags = ("--port", str(PORT), *arguments)
        watched = start_bare(self.hosts[name], self.mesh, self.folder / "bare", *flags)
        eventually(lambda: watched.output.read_text(), within=10)
        return watched

    def address(self, name: str) -> str:
        return f"{self.hosts[name].address}:{PORT}"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    mesh = Mesh.make(tmp_path / "root")
    for name in NAMES:
        mesh.admit(tmp_path / name, life=timedelta(days=30))
    (tmp_path / "bare").mkdir()
    with netns.lan(NAMES) as hosts:
        yield Lab(mesh, tmp_path, hosts)


pytestmark = needs_networks


def knows(lab: Lab, who: str, *others: str) -> Callable[[], bool]:
    def look() -> bool:
        listed = lab.peer(who).json("agents")["items"]
        alive = {one["agent"] for one in listed if one["state"] == "alive"}
        return alive >= set(others)

    return look


def test_a_healthy_lab_has_no_trouble_and_each_agent_is_explained(lab: Lab) -> None:
    with lab.agents("ws-1", "ws-2"):
        eventually(knows(lab, "ws-1", "ws-2"), within=10)
        seen = doctor(lab.peer("laptop"), "network")
        assert seen.bad() == set()
        assert "multicast (eth0)" in seen.said("agent ws-1")
        assert "2 agents of this mesh heard" in seen.said("mdns")
        at_agent = doctor(lab.peer("ws-1"), "network")
        assert at_agent.bad() == set()
        assert "reached at" in at_agent.said("agent here")
        seeded = doctor(lab.peer("laptop", DSTACK_SEEDS=lab.address("ws-2")), "network")
        assert "multicast (eth0), a seed" in seeded.said("agent ws-2")
        assert max(seen.took, at_agent.took, seeded.took) < SLOWEST_SECONDS


# 1. Multicast.


def test_multicast_that_the_network_drops_is_told_from_nobody_announcing(lab: Lab) -> None:
    laptop = lab.peer("laptop", DSTACK_SEEDS=lab.address("ws-1"))
    nobody = doctor(lab.peer("laptop"), "network")
    assert nobody.of("mdns") == [("pass", "")]
    assert "nobody of this mesh announces itself" in nobody.said("mdns")
    with lab.agents("ws-1"):
        lab.hosts["laptop"].lose_multicast()
        seen = doctor(laptop, "network")
        assert seen.of("mdns") == [("fail", "mdns-blocked")]
        assert "sent and not heard" in seen.said("mdns") and "ws-1" in seen.said("mdns")
        assert lab.address("ws-1") in seen.fix("mdns")
        assert "a seed, not by multicast" in seen.said("agent ws-1")
    with lab.agents("ws-1", flags=("--no-mdns",)):
        silent = doctor(laptop, "network")
        assert silent.of("mdns") == [("warn", "mdns-silent")]


def test_multicast_that_this_machine_drops_is_told_as_such(lab: Lab) -> None:
    host = lab.hosts["laptop"]
    host.run("iptables", "-A", "INPUT", "-d", "224.0.0.0/4", "-j", "DROP")
    seen = doctor(lab.peer("laptop"), "network")
    assert seen.of("mdns") == [("fail", "mdns-blocked")]
    assert "not even this machine hears it" in seen.said("mdns")
    host.drop_multicast()
    seen = doctor(lab.peer("laptop"), "network")
    assert seen.of("mdns") == [("fail", "mdns-blocked")]
    assert "does not send" in seen.said("mdns")


# 2. The wrong interface.


@pytest.mark.parametrize(("name", "address"), [("eth1", "10.9.0.1"), ("docker0", "172.17.0.1")])
def test_an_agent_on_an_interface_that_others_are_not_on_is_told(
    lab: Lab, name: str, address: str
) -> None:
    lab.hosts["ws-2"].add(name, "bridge", f"{address}/24")
    with lab.agents("ws-1"), lab.agents("ws-2", flags=("--listen", f"{address}:{PORT}")):
        seen = doctor(lab.peer("ws-2"), "network")
        assert seen.of("interfaces") == [("fail", "wrong-interface")]
        assert address in seen.said("interfaces") and name in seen.said("interfaces")
        assert "--listen 0.0.0.0" in seen.fix("interfaces")
        other = doctor(lab.peer("laptop"), "network")
        assert other.bad() == {("interfaces", "fail", "wrong-interface")}
        assert "ws-2 is announced at" in other.said("interfaces")


# 3. The clock.


def test_a_clock_that_is_off_is_named_by_majority(lab: Lab) -> None:
    with lab.agents("ws-1"):
        lab.bare("ws-2", "--clock-off", "-300")
        seen = doctor(lab.peer("laptop"), "network")
        assert seen.bad() == {("clock", "fail", "clock-off")}
        assert "the clock of ws-2 is 300 s behind: 2 of 3" in seen.said("clock")
        assert "on ws-2" in seen.fix("clock")


def test_a_clock_of_this_machine_that_is_off_is_named(lab: Lab) -> None:
    for name in ("ws-1", "ws-2"):
        lab.bare(name, "--clock-off", "300")
    seen = doctor(lab.peer("laptop"), "network")
    assert seen.of("clock") == [("fail", "clock-off")]
    assert "this machine's clock is 300 s behind: 2 of 3" in seen.said("clock")


# 4. Firewalls.


@pytest.mark.parametrize(
    ("planted", "cause", "grade"),
    [
        (("ws-1", "INPUT", "DROP"), "firewall", "fail"),
        (("ws-1", "INPUT", "REJECT --reject-with icmp-admin-prohibited"), "firewall", "fail"),
        (("laptop", "OUTPUT", "DROP"), "firewall-here", "fail"),
        (("ws-1", "INPUT", "REJECT --reject-with tcp-reset"), "port-refused", "warn"),
    ],
    ids=["dropped there", "prohibited there", "dropped here", "refused"],
)
def test_a_firewall_is_told_with_the_side_it_is_on(
    lab: Lab, planted: tuple[str, str, str], cause: str, grade: str
) -> None:
    where, chain, target = planted
    with lab.agents("ws-1"):
        rule = ("-p", "tcp", "--dport", str(PORT), "-j", *target.split())
        lab.hosts[where].run("iptables", "-A", chain, *rule)
        seen = doctor(lab.peer("laptop"), "network")
        assert seen.bad() == {(f"address {lab.address('ws-1')}", grade, cause)}


def test_an_agent_that_reaches_others_and_is_not_reached_is_told(lab: Lab) -> None:
    rule = ("-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    lab.hosts["ws-2"].run("iptables", "-A", "INPUT", *rule)
    with lab.agents("ws-1", "ws-2"):
        eventually(knows(lab, "ws-2", "ws-1"), within=10)
        seen = doctor(lab.peer("ws-2"), "network")
        assert seen.bad() == {("inbound", "fail", "firewall-inbound")}
        assert str(PORT) in seen.fix("inbound")


def test_a_machine_that_is_off_is_no_firewall(lab: Lab) -> None:
    network = lab.hosts["laptop"].address.rpartition(".")[0]
    address = f"{network}.99:{PORT}"
    seen = doctor(lab.peer("laptop", DSTACK_SEEDS=address), "network")
    assert seen.of(f"address {address}") == [("warn", "away")]


# 5. The driver.


@needs_root
def test_a_card_without_its_driver_is_told(tmp_path: Path) -> None:
    card = tmp_path / "devices" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    peer = make_peer(tmp_path, "home")
    peer.prefix = in_mounts(f"mount --bind {tmp_path}/devices /sys/bus/pci/devices")
    seen = doctor(peer, "gpu")
    assert seen.of("gpu") == [("fail", "no-driver")]
    assert "0000:01:00.0" in seen.said("gpu")


def in_mounts(*commands: str) -> tuple[str, ...]:
    """What a command line begins with to see other mounts than everybody."""
    script = "; ".join(("set -e", *commands, 'exec "$@"'))
    return ("unshare", "--mount", "sh", "-c", script, "sh")


# 6. The disk.


@needs_root
@pytest.mark.parametrize(
    ("options", "check", "cause"),
    [
        ("size=20m", "disk", "disk-full"),
        ("size=4g,nr_inodes=300", "disk", "inodes-full"),
        ("size=20m", "temporary files", "disk-full"),
        ("size=4g,nr_inodes=300", "temporary files", "inodes-full"),
    ],
)
def test_a_full_disk_is_told_in_bytes_and_files(
    tmp_path: Path, options: str, check: str, cause: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    peer = make_peer(tmp_path, "home", DSTACK_MDNS="0")
    if check == "disk":
        peer.env = {**peer.env, "DSTACK_HOME": str(small / "home")}
    else:
        peer.env = {**peer.env, "TMPDIR": str(small)}
    peer.prefix = in_mounts(f"mount -t tmpfs -o {options} tmpfs {small}")
    seen = doctor(peer, "machine")
    assert seen.of(check) == [("fail", cause)]
    assert str(small) in seen.said(check) and str(small) in seen.fix(check)


# 7. Docker's group.


@needs_root
@pytest.mark.parametrize(("owner", "said"), [(0, "root alone"), (PERSON + 1, "docker-less")])
def test_a_docker_that_the_person_may_not_use_is_told(owner: int, said: str) -> None:
    with persons_folder() as folder, socket.socket(socket.AF_UNIX) as engine:
        path = folder / "docker.sock"
        engine.bind(str(path))
        engine.listen()
        os.chown(path, 0, owner)
        path.chmod(0o660 if owner else 0o600)
        peer = make_peer(folder, "home", DOCKER_HOST=f"unix://{path}", HOME=str(folder))
        peer.prefix = as_person()
        give(peer.home)
        seen = doctor(peer, "docker")
        assert seen.of("docker") == [("fail", "docker-group")]
        assert "usermod -aG docker" in seen.fix("docker")
        assert str(path) in seen.said("docker")


# 8. Certificates.


@pytest.mark.parametrize(
    ("born", "life", "grade", "cause"),
    [
        (timedelta(days=-3), timedelta(days=1), "fail", "certificate-expired"),
        (timedelta(days=-1), timedelta(days=3), "warn", "certificate-soon"),
        (timedelta(days=3), timedelta(days=9), "fail", "clock-off"),
    ],
    ids=["expired", "soon", "not yet"],
)
def test_an_old_certificate_is_told(
    tmp_path: Path, born: timedelta, life: timedelta, grade: str, cause: str
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    mesh.admit(tmp_path / "m", datetime.now(UTC) + born, life)
    seen = doctor(Peer("m", tmp_path / "m", env={"DSTACK_MDNS": "0"}), "network")
    assert seen.of("mesh") == [(grade, cause)]


# 9. One id, two machines.


def test_a_copied_home_is_told_by_doctor_and_by_the_agents(lab: Lab) -> None:
    shutil.rmtree(lab.folder / "ws-2")
    shutil.copytree(lab.folder / "ws-1", lab.folder / "ws-2")
    with lab.agents("ws-1", "ws-2") as (one, other):
        eventually(
            lambda: doctor(lab.peer("laptop"), "network").of("ids") == [("fail", "duplicate-id")],
            within=20,
        )
        seen = doctor(lab.peer("ws-1"), "network")
        assert seen.of("ids") == [("fail", "duplicate-id")]
        assert lab.hosts["ws-2"].address in seen.said("ids")
        said = "Two machines use the peer id"
        eventually(lambda: said in one.log.read_text() or said in other.log.read_text(), within=20)
        noticed = lab.peer("ws-1" if said in one.log.read_text() else "ws-2")
        status = json.loads(run(noticed, *RUNNER, "status", "--json"))
        assert said in status["problems"][0]


def run(peer: Peer, *command: str) -> bytes:
    with peer.popen(command, stdout=subprocess.PIPE) as process:
        return process.communicate(timeout=30)[0]


# 10. Versions.


@pytest.mark.parametrize(
    ("flags", "grade"),
    [(("--version", "0.0.1"), "warn"), (("--version", "9.0.0", "--protocol", "7"), "fail")],
)
def test_another_version_is_told_with_the_side_to_update(
    lab: Lab, flags: tuple[str, ...], grade: str
) -> None:
    lab.bare("ws-2", *flags)

    def heard() -> list[Seen]:
        seen = doctor(lab.peer("laptop"), "network")
        return [seen] if seen.of("versions") else []

    [seen] = eventually(heard, within=20)  # it announces itself a moment after it listens
    assert seen.of("versions") == [(grade, "version-skew")]
    assert flags[1] in seen.said("versions")
    side = "on ws-2" if grade == "warn" else "here"
    assert seen.fix("versions").startswith(f"{side}: pip install -U")


# 11. Proxies.


def test_a_proxy_that_would_swallow_this_network_is_told(lab: Lab) -> None:
    proxy = "http://ana:hunter2@proxy.example:3128"
    with lab.agents("ws-1"):
        seen = doctor(lab.peer("laptop", http_proxy=proxy, HTTPS_PROXY=proxy), "network")
        assert seen.of("proxy") == [("warn", "proxy-swallows")]
        assert seen.of("agent ws-1") == [("pass", "")], "gRPC takes no proxy"
        assert lab.hosts["ws-1"].address in seen.fix("proxy")
        assert "hunter2" not in json.dumps(seen.findings)
        excepted = f"localhost,127.0.0.1,169.254.169.254,{lab.hosts['ws-1'].address}/24"
        fine = doctor(lab.peer("laptop", http_proxy=proxy, no_proxy=excepted), "network")
        assert fine.of("proxy") == [("pass", "")]


# 12. The cloud.


@pytest.mark.parametrize(
    ("env", "cause"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIA0123456789ABCDEF"}, "credentials-incomplete"),
        ({"AWS_PROFILE": "no-such"}, "no-profile"),
        ({"AWS_PROFILE": "sso"}, "session-expired"),
    ],
)
def test_wrong_cloud_credentials_are_told_and_nobody_is_asked(
    tmp_path: Path, env: dict[str, str], cause: str
) -> None:
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (tmp_path / ".aws" / "config").write_text(
        "[profile sso]\nsso_session = lab\n[sso-session lab]\nsso_start_url = https://lab.example\n"
    )
    signed: dict[str, Any] = {"startUrl": "https://lab.example", "accessToken": "x"}
    (cache / "a.json").write_text(json.dumps({**signed, "expiresAt": "2020-01-01T00:00:00Z"}))
    peer = make_peer(tmp_path, "home")
    peer.env = {**env, "HOME": str(tmp_path)}
    # In a network namespace of its own there is nobody to ask.
    peer.prefix = ("unshare", "--net")
    seen = doctor(peer, "cloud")
    assert seen.of("cloud") == [("fail", cause)]


# All of it.


def test_doctor_says_what_it_waits_for_and_never_hangs_on_one_check(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "home", DSTACK_MDNS="0")
    with socket.socket(socket.AF_UNIX) as engine:
        path = tmp_path / "docker.sock"
        engine.bind(str(path))
        engine.listen()  # accepts, and never answers
        peer.env = {**peer.env, "DOCKER_HOST": f"unix://{path}"}
        began = time.monotonic()
        ended = peer.dstack("doctor", "docker", "--json")
        took = time.monotonic() - began
    assert ended.returncode == 1
    assert b"looking at: docker" in ended.stderr
    assert json.loads(ended.stdout)["items"][0]["cause"] == "docker-silent"
    assert took < SLOWEST_SECONDS


def test_an_unknown_topic_is_a_mistake_of_usage(tmp_path: Path) -> None:
    assert make_peer(tmp_path, "home").dstack("doctor", "weather").returncode == 2
    assert DSTACK[0] == sys.executable
