"""Six agents on one bridge, cut into two halves that both go on, and put together again."""

import asyncio
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_mesh.clock import SystemClock
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import PeerId
from dstack_mesh.records.book import RecordBook
from dstack_mesh.records.port import Versions
from dstack_mesh.records.record import Delta
from dstack_mesh.records.store import RecordStore
from dstack_mesh.signing import Signer
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.records import GrpcRecordPeer
from support import netns
from support.eventually import eventually
from support.lab import Peer, invitation, make_peer, project

pytestmark = pytest.mark.netns

LEFT, RIGHT = ("ws-1", "ws-2", "ws-3"), ("ws-4", "ws-5", "ws-6")
NAMES = (*LEFT, *RIGHT)

WORKFLOWS = """
workflows:
  - name: talk
    provider: bash
    commands: [echo hello]
"""


@dataclass
class Lab:
    peers: dict[str, Peer]
    hosts: dict[str, netns.Host]
    code: Path

    def cut(self) -> None:
        """Nothing gets from one half to the other."""
        for one in LEFT:
            for other in RIGHT:
                self.hosts[one].drop_from(self.hosts[other])
                self.hosts[other].drop_from(self.hosts[one])

    def mend(self) -> None:
        for host in self.hosts.values():
            host.flush()


@contextmanager
def running(folder: Path, hosts: dict[str, netns.Host]) -> Generator[Lab]:
    peers = {name: make_peer(folder, name, hosts[name].prefix, DSTACK_MDNS="0") for name in NAMES}
    first = peers["ws-1"]
    first.dstack("mesh", "create", "lab", check=True)
    for name in NAMES[1:]:
        with invitation(first, "runner") as (code, addresses):
            where = f"{hosts['ws-1'].address}:{addresses[0].rpartition(':')[2]}"
            peers[name].dstack("mesh", "join", code, where, "--yes", check=True)
    with ExitStack() as stack:
        seed = f"{hosts['ws-1'].address}:7420"
        for name in NAMES:
            flags = ("--no-mdns", "--listen", "0.0.0.0:7420", "--seed", seed)
            stack.enter_context(peers[name].runner(*flags, ready_within=30))
        yield Lab(peers, hosts, project(folder / "code", WORKFLOWS))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    if reason := netns.missing():
        pytest.skip(reason)
    with netns.lan(NAMES) as hosts, running(tmp_path, hosts) as lab:
        yield lab


async def versions_at(peer: Peer, book: RecordBook) -> Versions:
    """How far an agent has each stream, asked over its own socket, which no cut reaches."""
    home = Home(peer.home)
    channels = Channels(home)
    try:
        coming = GrpcRecordPeer(channels.to_local(home.agent_socket), peer.name).exchange({}, book)
        async with aclosing(coming):
            first = await anext(coming)
        assert not isinstance(first, Delta)
        return first
    finally:
        await channels.close()


class Wanting:
    """A book that wants nothing: only versions are asked."""

    def __init__(self, folder: Path) -> None:
        home = Home(folder / "asking")
        home.prepare()
        self.store = RecordStore(home.state / "records.db")
        signer = Signer.of(Identity.load_or_make(home))
        self.book = RecordBook(self.store, signer, SystemClock(), may_write=lambda _: False)


def state_of(peers: Sequence[Peer], book: RecordBook) -> list[dict[PeerId, object]]:
    async def ask() -> list[dict[PeerId, object]]:
        found = await asyncio.gather(*(versions_at(peer, book) for peer in peers))
        return [dict(one) for one in found]

    return asyncio.run(ask())


def alike(peers: Sequence[Peer], book: RecordBook, writers: int) -> bool:
    states = state_of(peers, book)
    return all(one == states[0] for one in states) and len(states[0]) == writers


def test_two_halves_that_heal_are_alike_within_ten_seconds_and_nothing_is_lost(
    lab: Lab, tmp_path: Path
) -> None:
    wanting = Wanting(tmp_path)
    everybody = list(lab.peers.values())
    try:
        eventually(lambda: alike(everybody, wanting.book, 6), within=30, every=0.5)
        lab.cut()
        runs: dict[str, str] = {}
        for name in ("ws-1", "ws-5"):
            ran = lab.peers[name].dstack(
                *("run", "talk", "-d", "-q", "--local"), cwd=lab.code, check=True
            )
            runs[name] = ran.stdout.decode().strip()
        lab.peers["ws-1"].dstack("tag", runs["ws-1"], "left", check=True)
        lab.peers["ws-5"].dstack("tag", runs["ws-5"], "right", check=True)
        for half in (LEFT, RIGHT):
            peers = [lab.peers[name] for name in half]
            eventually(lambda peers=peers: alike(peers, wanting.book, 6), within=15, every=0.2)
        left, right = state_of([lab.peers["ws-1"], lab.peers["ws-4"]], wanting.book)
        assert left != right
        lab.mend()
        began = time.monotonic()
        eventually(lambda: alike(everybody, wanting.book, 6), within=20, every=0.1)
        took = time.monotonic() - began
        for name in ("ws-2", "ws-6"):
            items = lab.peers[name].json("ps", "-a")["items"]
            assert {item["run"] for item in items} == set(runs.values())
            assert {tag for item in items for tag in item["tags"]} == {"left", "right"}
        print(f"alike {took:.1f} s after the cut was mended")
        assert took <= 10
    finally:
        wanting.store.close()
