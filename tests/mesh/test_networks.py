"""Multicast on machines with several networks, that change, sleep, and are flooded."""

import json
import os
import re
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support import netns
from support.adverts import advert, pointer
from support.eventually import eventually
from support.meshes import Mesh
from support.rounds import rounds
from support.watched import Watched, all_see_each_other, start

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "-"),
]

RATE = 10_000
"""Adverts a second of the flood."""

GROWTH_BYTES = 50 << 20


@pytest.fixture
def hosts() -> Generator[dict[str, netns.Host]]:
    with netns.lan(["ws-1", "ws-2", "other"]) as net:
        yield net


HEARD = """
import json, socket, sys
from dstack_mesh.discovery.announcement import Announcement
import asyncio
from dstack_mesh.discovery.mdns import Multicast
def told(sighting):
    print(json.dumps([sighting.interface, list(sighting.addresses)]), flush=True)
asyncio.run(Multicast(None, told).run())
"""


def listen(host: netns.Host, folder: Path) -> Path:
    """Sightings on a machine, a line each."""
    output = folder / f"{host.name}.heard"
    with output.open("wb") as sink:
        host.popen([sys.executable, "-c", HEARD], stdout=sink, env=environment())
    return output


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return os.environ | {"PYTHONPATH": path, "DSTACK_MDNS": "1"}


def heard(output: Path) -> dict[str, list[str]]:
    """Hosts that were announced, by the interface on which that was heard."""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    return {
        name: sorted({one.rpartition(":")[0] for at, found in lines if at == name for one in found})
        for name in {line[0] for line in lines}
    }


def test_each_network_is_told_its_own_addresses_only_and_a_vpn_or_docker_none(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    one, two = hosts["ws-1"], hosts["ws-2"]
    near, _ = one.cable(two, "eth1", "10.9.0")
    one.add("docker0", "bridge", "172.17.0.1/16")
    vpn, _ = one.cable(two, "vpn0", "10.8.0")
    one.run("ip", "link", "set", "vpn0", "multicast", "off")
    output = listen(two, tmp_path)
    start(one, mesh, tmp_path)
    expected = {"eth0": [one.address], "eth1": [near]}
    eventually(
        lambda: heard(output) if heard(output) == expected else print(heard(output)),
        within=10,
        every=2,
    )
    assert vpn not in output.read_text() and "172.17" not in output.read_text()


def test_an_interface_that_comes_up_is_announced_on_at_once(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    one, two = hosts["ws-1"], hosts["ws-2"]
    output = listen(two, tmp_path)
    start(one, mesh, tmp_path)
    eventually(lambda: heard(output) == {"eth0": [one.address]}, within=10)
    near, _ = one.cable(two, "eth1", "10.9.0")
    began = time.monotonic()
    eventually(lambda: heard(output).get("eth1") == [near], within=4.5)
    print(f"announced on the new interface after {time.monotonic() - began:.1f} s")
    # The other network noticed nothing.
    assert heard(output)["eth0"] == [one.address]


SENT = """
import sys
from support.adverts import GROUP, sender
sender(sys.argv[1]).sendto(bytes.fromhex(sys.argv[2]), GROUP)
"""


def send(host: netns.Host, *packets: bytes) -> None:
    """Sends to the group from a machine."""
    for packet in packets:
        command = [sys.executable, "-c", SENT, host.address, packet.hex()]
        assert host.popen(command, env=environment()).wait(10) == 0


STRANGE = ("evil.example.", "_dstack-mesh._tcp.local.", "a.b._dstack-mesh._tcp.local.")


def test_a_name_that_is_nobodys_turns_discovery_off_for_nobody(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    output, other = listen(hosts["ws-2"], tmp_path), hosts["other"]

    def is_heard(instance: str, port: int) -> bool:
        send(other, advert(instance, "", other.address, port))
        return f'"{other.address}:{port}"' in output.read_text()

    eventually(lambda: is_heard("a" * 16, 1), within=10)
    send(other, *map(pointer, STRANGE))
    eventually(lambda: is_heard("b" * 16, 2), within=3)


SEARCHED = """
import asyncio, sys
from dstack_mesh.discovery.mdns import find_invite
print("found", *asyncio.run(find_invite("7K3V", 10.0)), flush=True)
"""


def test_a_name_that_is_nobodys_ends_no_search_for_an_invitation(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    output, other = tmp_path / "found", hosts["other"]
    with output.open("wb") as sink:
        search = hosts["ws-2"].popen(
            [sys.executable, "-c", SEARCHED], stdout=sink, env=environment()
        )
    strange = [pointer(alias, b"i=7K3V") for alias in STRANGE]
    real = advert("c" * 16, "", other.address, 7421, b"i=7K3V")

    def ended() -> bool:
        send(other, *strange, real)
        return search.poll() is not None

    eventually(ended, within=12)
    assert output.read_text().split() == ["found", f"{other.address}:7421"]


STORMED = """
import asyncio, errno, socket, subprocess, sys
from dstack_mesh.clock import SystemClock
from dstack_mesh.discovery.changes import watching
lines = "".join(
    f"link add v{i} type veth peer name w{i}\\nlink set v{i} up\\nlink set w{i} up\\n"
    f"addr add 10.9.{i}.1/24 dev v{i}\\n" for i in range(int(sys.argv[1]))
)
async def main():
    idle = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    idle.bind((0, 0x11))
    async with watching(SystemClock()) as changes:
        subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)
        try:
            while True:
                idle.recv(1 << 16)
        except OSError as failed:
            print(errno.errorcode[failed.errno], flush=True)
        idle.close()
        async with asyncio.timeout(3):
            await changes.wait()
        print("told", flush=True)
        try:
            async with asyncio.timeout(3):
                await changes.wait()
            print("told again", flush=True)
        except TimeoutError:
            print("quiet", flush=True)
asyncio.run(main())
"""


def test_more_changes_than_the_kernel_keeps_are_one_change(hosts: dict[str, netns.Host]) -> None:
    """Real pairs of interfaces: so many come and go where containers start."""
    said = hosts["ws-1"].popen(
        [sys.executable, "-c", STORMED, str(rounds(60))], stdout=-1, env=environment(), text=True
    )
    # The first line is a socket that nobody read: messages were lost.
    printed: Any = said.communicate(timeout=60)[0]
    assert printed.split()[:2] == ["ENOBUFS", "told"]
    assert said.returncode == 0


def memory_of(agent: Watched) -> int:
    """Bytes that an agent's process holds."""
    return psutil.Process(agent.host.started[-1].pid).memory_info().rss


def received(host: netns.Host) -> int:
    """UDP datagrams that programs on a machine got so far."""
    numbers = re.findall(r"^Udp: (\d+)", host.run("cat", "/proc/net/snmp"), re.MULTILINE)
    return int(numbers[0])


def test_a_storm_of_adverts_costs_no_memory_and_hides_no_real_peer(
    tmp_path: Path, hosts: dict[str, netns.Host]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    first = start(hosts["ws-1"], mesh, tmp_path)
    eventually(lambda: first.output.read_text(), within=10)
    before, datagrams = memory_of(first), received(hosts["ws-1"])
    seconds = rounds(8)
    command = [sys.executable, "-m", "support.adverts", hosts["other"].address]
    storm = hosts["other"].popen(
        [*command, str(RATE), str(seconds)], stdout=-1, env=environment(), text=True
    )
    eventually(lambda: received(hosts["ws-1"]) - datagrams > RATE, within=5)
    second = start(hosts["ws-2"], mesh, tmp_path)
    eventually(lambda: second.output.read_text(), within=10)
    began = time.monotonic()
    eventually(lambda: all_see_each_other([first, second]), within=5)
    took = time.monotonic() - began
    assert storm.poll() is None, "found only after the storm"
    most = before
    while storm.poll() is None:
        most = max(most, memory_of(first))
        time.sleep(0.1)
    sent, arrived = int(storm.communicate()[0]), received(hosts["ws-1"]) - datagrams
    print(
        f"{sent} adverts in {seconds} s, {arrived} arrived; the peer was found in {took:.2f} s;"
        f" memory grew by {(most - before) / (1 << 20):.1f} MiB"
    )
    assert sent >= RATE * seconds * 0.8
    assert arrived >= sent * 0.5
    assert most - before < GROWTH_BYTES
    assert set(first.found_by().values()) == {"mdns"}
