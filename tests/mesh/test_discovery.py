"""Agents on machines of their own that find each other by real multicast DNS."""

import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from support import netns
from support.eventually import eventually
from support.meshes import Mesh
from support.watched import all_see_each_other, start

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "-"),
]


@pytest.fixture
def hosts() -> Generator[dict[str, netns.Host]]:
    with netns.lan(["ws-1", "ws-2", "ws-3", "other"]) as net:
        yield net


def test_agents_without_configuration_see_each_other_within_three_seconds(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh, other = Mesh.make(tmp_path / "root"), Mesh.make(tmp_path / "other-root")
    strange = start(hosts["other"], other, tmp_path)
    names = ["ws-1", "ws-2", "ws-3"]
    eventually(lambda: strange.output.read_text(), within=10)
    began = time.monotonic()
    agents = [start(hosts[name], mesh, tmp_path) for name in names]
    eventually(lambda: all(agent.output.read_text() for agent in agents), within=10)
    started = time.monotonic()
    eventually(lambda: all_see_each_other(agents), within=3)
    print(
        f"started in {started - began:.2f} s, then all seen in {time.monotonic() - started:.2f} s"
    )
    eventually(lambda: {how for one in agents for how in one.found_by().values()} == {"mdns"}, 5)

    # Another mesh's agent heard the same multicast; nobody sees it and it sees nobody.
    assert strange.ever_saw() == set()
    assert all("other" not in agent.ever_saw() for agent in agents)

    # A killed agent stays in every multicast cache; Hello tells the truth.
    hosts["ws-3"].started[-1].kill()
    eventually(lambda: agents[0].sees().get("ws-3") == "gone", within=25)
    back = start(hosts["ws-3"], mesh, tmp_path)
    eventually(lambda: all_see_each_other([*agents[:2], back]), within=10)


def test_where_multicast_is_dropped_a_seed_is_enough(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    for name in ("ws-1", "ws-2", "ws-3"):
        hosts[name].drop_multicast()
    first = start(hosts["ws-1"], mesh, tmp_path, "--port", "7420")
    seed = ("--seed", f"{hosts['ws-1'].address}:7420")
    agents = [first, *(start(hosts[name], mesh, tmp_path, *seed) for name in ("ws-2", "ws-3"))]
    eventually(lambda: all_see_each_other(agents), within=10)
    assert "mdns" not in {how for agent in agents for how in agent.found_by().values()}


def test_a_cut_cable_makes_gone_and_a_mended_one_alive(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    agents = [start(hosts[name], mesh, tmp_path) for name in ("ws-1", "ws-2")]
    eventually(lambda: all_see_each_other(agents), within=10)
    hosts["ws-2"].cut()
    eventually(lambda: agents[0].sees() == {"ws-2": "gone"}, within=30)
    hosts["ws-2"].mend()
    eventually(lambda: all_see_each_other(agents), within=45)


def test_a_machine_that_moves_is_found_at_its_new_address(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    agents = [start(hosts[name], mesh, tmp_path) for name in ("ws-1", "ws-2")]
    eventually(lambda: all_see_each_other(agents), within=10)
    new = hosts["ws-2"].move(99)

    def found_again() -> bool:
        (known,) = agents[0].last()["agents"]
        return known["state"] == "alive" and str(known["addresses"][0]).startswith(f"{new}:")

    eventually(found_again, within=40)


def test_multicast_carries_no_name_of_a_machine_a_person_or_a_mesh(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    sniffer = hosts["other"].popen(
        [sys.executable, "-c", SNIFFER, str(tmp_path / "heard")], stderr=sys.stderr
    )
    eventually(lambda: (tmp_path / "heard").exists(), within=5)
    mesh = Mesh.make(tmp_path / "root", "planted-lab")
    agents = [start(hosts[name], mesh, tmp_path) for name in ("ws-1", "ws-2")]
    eventually(lambda: all_see_each_other(agents), within=10)
    eventually(lambda: b"_dstack-mesh" in (tmp_path / "heard").read_bytes(), within=5)
    sniffer.kill()
    heard = (tmp_path / "heard").read_bytes()
    for told in ("planted", "ws-1", os.uname().nodename, mesh.membership.mesh_id):
        assert told.encode() not in heard


SNIFFER = """
import socket, struct, sys
heard = open(sys.argv[1], "wb", buffering=0)
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", 5353))
group = struct.pack("4sl", socket.inet_aton("224.0.0.251"), socket.INADDR_ANY)
listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
while True:
    heard.write(listener.recv(9000))
"""


def test_a_code_alone_finds_its_listener(tmp_path: Path, hosts: dict[str, netns.Host]) -> None:
    mesh = Mesh.make(tmp_path / "root")
    inviting = hosts["ws-1"].popen(
        [sys.executable, "-c", INVITES, str(mesh.root.root)], stdout=-1, text=True
    )
    assert inviting.stdout is not None
    code = str(inviting.stdout.readline()).strip()
    began = time.monotonic()
    joined = hosts["ws-2"].run(sys.executable, "-c", JOINS, str(tmp_path / "ws-2"), code)
    print(f"joined in {time.monotonic() - began:.2f} s")
    assert joined.strip() == mesh.membership.mesh_id
    assert inviting.wait(10) == 0


INVITES = """
import asyncio, sys
from pathlib import Path
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.admission import serve_invitation
tell = lambda made: print(made.code, flush=True)
asyncio.run(serve_invitation(Home(Path(sys.argv[1])), Role.RUNNER, 60, tell))
"""

JOINS = """
import asyncio, sys
from pathlib import Path
from dstack_mesh.home import Home
from dstack_mesh.wire.newcomer import join_mesh
print(asyncio.run(join_mesh(Home(Path(sys.argv[1])), sys.argv[2])).mesh_id)
"""
