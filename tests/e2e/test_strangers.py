"""What somebody without a certificate on the same network sees, and what believes them.

`DSTACK_CHAOS_ROUNDS=600 pytest tests/e2e/test_strangers.py -k name` listens for ten minutes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_mesh.discovery.announcement import tag_of
from dstack_mesh.home import Home
from support import netns
from support.adverts import advert
from support.alone import agent_pid
from support.capture import captured, seen
from support.eventually import eventually
from support.fakes import pretending
from support.lab import Peer, invitation, make_peer, project, said
from support.meshes import Mesh, member
from support.rounds import rounds

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(netns.missing()), reason=netns.missing() or "-"),
]

PORT = 7420
USER, LAB, CARD = "planteduser7", "plantedlab7", "PlantedCard7"
FLOW, FILE, FOLDER = "plantedflow7", "plantedfile7.py", "plantedwork7"
MACHINES = {"ws-1": "plantedhost7", "laptop": "plantedbook7"}
NAMED = 'hostname "$0" && exec "$@"'
FAKES, FIRST_PORT = 1000, 20_000

WORKFLOWS = f"""
workflows:
  - name: {FLOW}
    provider: python
    file: {FILE}
"""

TICKS = """import sys, time
ends = time.time() + float(sys.argv[1])
while time.time() < ends:
    print("plantedline7", flush=True)
    time.sleep(0.2)
"""


@pytest.fixture
def hosts() -> Generator[dict[str, netns.Host]]:
    with netns.lan(["ws-1", "laptop", "neighbour"]) as net:
        yield net


@pytest.fixture
def lab(tmp_path: Path, hosts: dict[str, netns.Host]) -> Iterator[dict[str, Peer]]:
    """A workstation that made a mesh and a laptop that joined it, on machines with names."""
    peers = {name: named_peer(tmp_path, hosts[name], called) for name, called in MACHINES.items()}
    peers["ws-1"].dstack("mesh", "create", LAB, check=True)
    with invitation(peers["ws-1"], "submitter") as (code, _):
        peers["laptop"].dstack("mesh", "join", code, "--yes", check=True)
    yield peers
    if (pid := agent_pid(peers["laptop"])) is not None:
        os.kill(pid, 15)
        eventually(lambda: agent_pid(peers["laptop"]) is None, within=10)


def named_peer(folder: Path, host: netns.Host, called: str) -> Peer:
    """A peer on a machine with a host name of its own."""
    prefix = (*host.prefix, "unshare", "--uts", "sh", "-c", NAMED, called)
    peer = make_peer(folder, called, prefix, USER=USER, LOGNAME=USER)
    peer.env = {key: one for key, one in peer.env.items() if key != "DSTACK_NAME"}
    return peer


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return os.environ | {"PYTHONPATH": path}


def listening(host: netns.Host) -> set[str]:
    """Sockets of a machine that wait for others, as "tcp 7420"; multicast DNS apart."""
    found: set[str] = set()
    for family in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in host.run("cat", f"/proc/net/{family}").splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            port, kind = int(local.rpartition(":")[2], 16), family.rstrip("6")
            waits = state == "0A" if kind == "tcp" else not int(remote.rpartition(":")[2], 16)
            if waits and (kind, port) != ("udp", 5353):
                found.add(f"{kind} {port}")
    return found


def test_an_agent_listens_on_the_meshs_port_and_on_an_invitations_while_it_lives(
    lab: dict[str, Peer], hosts: dict[str, netns.Host], tmp_path: Path
) -> None:
    host, ours = hosts["ws-1"], f"tcp {PORT}"
    newcomer = named_peer(tmp_path, hosts["neighbour"], "newcomer")
    assert listening(host) == set()
    with lab["ws-1"].runner():
        assert eventually(lambda: listening(host), within=5) == {ours}
        with invitation(lab["ws-1"], "reader") as (code, addresses):
            more = f"tcp {addresses[0].rpartition(':')[2]}"
            assert listening(host) == {ours, more}
            newcomer.dstack("mesh", "join", code, "--yes", check=True)
        eventually(lambda: listening(host) == {ours}, within=15)
        other = host.popen([sys.executable, "-m", "http.server", "8123"], stderr=-1, stdout=-1)
        eventually(lambda: listening(host) == {ours, "tcp 8123"}, within=10)  # would be seen
        other.kill()


@contextmanager
def probing(host: netns.Host, there: netns.Host, output: Path) -> Generator[None]:
    """A neighbour looks at what it can reach."""
    command = [sys.executable, "-m", "support.prober", there.address, str(PORT)]
    with output.open("wb") as sink:
        process = host.popen(command, stdout=sink, env=environment())
        try:
            yield
        finally:
            process.kill()
            process.wait()


def test_no_name_is_in_what_crosses_the_network_or_what_a_neighbour_is_told(
    lab: dict[str, Peer], hosts: dict[str, netns.Host], tmp_path: Path
) -> None:
    seconds = rounds(8)
    code = project(tmp_path / FOLDER, WORKFLOWS, **{FILE.replace(".", "_DOT_"): TICKS})
    names = {USER, LAB, CARD, FLOW, FILE, FOLDER, *MACHINES.values(), "plantedline7"}
    names |= {socket.gethostname()} if len(socket.gethostname()) > 5 else set()
    probed, neighbour = tmp_path / "probed", hosts["neighbour"]
    with captured(neighbour, tmp_path / "frames") as frames:
        with (
            lab["ws-1"].runner("--gpu", f"{CARD}:16GB"),
            probing(neighbour, hosts["ws-1"], probed),
        ):
            words = ("run", FLOW, "--gpu", "1", "--remote", str(seconds))
            ended = lab["laptop"].dstack(*words, cwd=code, timeout=seconds + 90)
            assert ended.returncode == 0, said(ended)
            assert b"plantedline7" in ended.stdout
            items = lab["laptop"].json("ps", "-a")["items"]
            names |= {str(items[0]["run"])}
            lab["laptop"].dstack("agents", check=True)
        taken = frames.read_bytes()
        canary = "plantedcanary7"
        neighbour.run(
            sys.executable,
            "-c",
            f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            f"s.sendto(b'{canary}', ('{hosts['ws-1'].address}', 9))",
        )
        eventually(lambda: seen({canary}, frames.read_bytes()), within=5)
    lines = probed.read_text().split()
    told = b"".join(map(bytes.fromhex, lines))
    print(
        f"{len(taken):,} bytes captured in {seconds} s, {len(told):,} bytes told to the prober in "
        f"{len(lines)} looks; searched for {sorted(names)}"
    )
    assert b"_dstack-mesh" in taken and b"_dstack-mesh" in told
    assert member(Home(lab["ws-1"].home)).peer_id.encode() in told  # the certificate was read
    assert seen(names, taken) == set()
    assert seen(names, told) == set()


def test_a_name_in_any_form_would_be_found() -> None:
    import base64

    name = "PlantedCard7"
    for text in (
        name.encode(),
        name.upper().encode(),
        name.encode().hex().encode(),
        name.encode("utf-16-le"),
        *(base64.b64encode(b"x" * before + name.encode() + b"yyy") for before in range(4)),
    ):
        assert seen({name, "absent"}, b"\x16\x03" + text + b"\0") == {name}


@contextmanager
def faking(
    host: netns.Host, folder: Path, shown: tuple[bytes, bytes], adverts: list[bytes]
) -> Generator[Path]:
    """Fakes on a machine while the block runs; the file says what they were told."""
    folder.mkdir()
    (folder / "key").write_bytes(shown[0])
    (folder / "chain").write_bytes(shown[1])
    (folder / "adverts").write_text("\n".join(packet.hex() for packet in adverts))
    paths = [str(folder / name) for name in ("key", "chain", "adverts", "stats")]
    where = (host.address, str(FIRST_PORT), str(FAKES))
    command = [sys.executable, "-m", "support.fakes", *paths[:2], *where, *paths[2:]]
    process = host.popen(command, env=environment())
    try:
        eventually((folder / "stats").exists, within=20)
        yield folder / "stats"
    finally:
        process.kill()
        process.wait()


def mesh_of(peer: Peer) -> Mesh:
    home = Home(peer.home)
    return Mesh(home, member(home))


def adverts_of(mesh: Mesh, address: str) -> list[bytes]:
    """As many agents, each announced as a member of the mesh would."""
    made: list[bytes] = []
    for number in range(FAKES):
        instance = secrets.token_hex(8)
        tag = tag_of(mesh.membership.discovery_key, instance)
        made.append(advert(instance, tag, address, FIRST_PORT + number))
    return made


def test_a_thousand_fakes_with_a_victims_name_are_told_nothing_and_work_lands_at_the_victim(
    lab: dict[str, Peer], hosts: dict[str, netns.Host], tmp_path: Path
) -> None:
    mesh, evil = mesh_of(lab["ws-1"]), hosts["neighbour"]
    shown = pretending(mesh, mesh.membership.peer_id)
    code = project(tmp_path / FOLDER, WORKFLOWS, **{FILE.replace(".", "_DOT_"): TICKS})
    seeds = [f"{evil.address}:{FIRST_PORT + number}" for number in range(8)]
    lab["laptop"].env = {**lab["laptop"].env, "DSTACK_SEEDS": ",".join(seeds)}
    count, slowest = rounds(3), 0.0
    with (
        lab["ws-1"].runner(),
        faking(evil, tmp_path / "fakes", shown, adverts_of(mesh, evil.address)) as stats,
    ):
        for _ in range(count):
            began = time.monotonic()
            words = ("run", FLOW, "--remote", "0")
            ended = lab["laptop"].dstack(*words, cwd=code, timeout=90)
            slowest = max(slowest, time.monotonic() - began)
            assert ended.returncode == 0, said(ended)
        items = lab["laptop"].json("ps", "-a", "-n", str(count))["items"]
        told = json.loads(stats.read_text())
        last = eventually(lambda: fresh(stats, told), within=10)
    print(f"{count} submissions among {FAKES} fakes, slowest {slowest:.1f} s; they saw {last}")
    assert len(items) >= count
    assert last["connections"] > 0
    assert (last["handshakes"], last["application_bytes"]) == (0, 0)


SILENT = """import socket, sys, time
held = [socket.create_server((sys.argv[1], int(port))) for port in sys.argv[2:]]
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def silent(host: netns.Host, ports: list[str]) -> Generator[None]:
    """Listeners on a machine that take every connection."""
    command = [sys.executable, "-c", SILENT, host.address, *ports]
    with host.popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


def test_seeds_that_take_a_connection_and_say_nothing_keep_nobody_from_being_found(
    lab: dict[str, Peer], hosts: dict[str, netns.Host], tmp_path: Path
) -> None:
    code = project(tmp_path / FOLDER, WORKFLOWS, **{FILE.replace(".", "_DOT_"): TICKS})
    evil, ports = hosts["neighbour"], [str(FIRST_PORT + number) for number in range(8)]
    seeds = ",".join(f"{evil.address}:{port}" for port in ports)
    lab["laptop"].env = {**lab["laptop"].env, "DSTACK_SEEDS": seeds}
    with lab["ws-1"].runner(), silent(evil, ports):
        lab["ws-1"].dstack("run", FLOW, "0", cwd=code, check=True)
        eventually(lambda: lab["laptop"].json("ps", "-a")["items"], within=20)
        lab["laptop"].dstack("run", FLOW, "--remote", "0", cwd=code, check=True)


def fresh(stats: Path, told: dict[str, int]) -> dict[str, int]:
    """What the fakes wrote after that."""
    now: dict[str, int] = json.loads(stats.read_text())
    return now if now["connections"] >= told["connections"] else {}


def test_bytes_that_a_fake_is_sent_would_be_counted(
    lab: dict[str, Peer], hosts: dict[str, netns.Host], tmp_path: Path
) -> None:
    mesh, evil = mesh_of(lab["ws-1"]), hosts["neighbour"]
    known = member(mesh.admit(tmp_path / "thief"))
    shown = known.key_path.read_bytes(), known.certificate_path.read_bytes()
    seed = f"{evil.address}:{FIRST_PORT}"
    lab["laptop"].env = {**lab["laptop"].env, "DSTACK_SEEDS": seed}
    with faking(evil, tmp_path / "fakes", shown, []) as stats:
        lab["laptop"].dstack("agents")
        told = eventually(lambda: some(stats), within=10)
    assert told["handshakes"] > 0


def some(stats: Path) -> dict[str, int]:
    told: dict[str, int] = json.loads(stats.read_text())
    return told if told["application_bytes"] else {}
