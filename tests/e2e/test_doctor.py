"""`dstack doctor` names what is wrong: every fault is planted for real on machines of a network."""

import json
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from support import netns
from support.doctored import SLOWEST_SECONDS, Seen, doctor
from support.eventually import eventually
from support.lab import RUNNER, Daemon, Peer
from support.meshes import Mesh
from support.watched import Watched
from support.watched import start as start_bare

needs_networks = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "-"),
]

NAMES = ("laptop", "ws-1", "ws-2")
PORT = 7420


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
