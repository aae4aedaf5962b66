"""kill -9 of either side in the middle of a transfer: what arrived stays, whole, and nothing half.

`DSTACK_CHAOS_ROUNDS` counts the kills.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.faults import Missing
from dstack_mesh.ids import Digest
from support.eventually import eventually
from support.meshes import Mesh
from support.rounds import rounds, seeded

TREE_BYTES = 48 << 20


class Transfer:
    """A tree on its way between two stores, by processes that are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        mesh = Mesh.make(folder / "root")
        self._homes = {"here": mesh.admit(folder / "here").root, "there": folder / "root"}
        self._number = 0
        self.server: subprocess.Popen[str] | None = None

    def store(self, side: str) -> Path:
        return self._folder / f"store-{side}-{self._number}"

    def anew(self, side: str, dice: random.Random) -> Digest:
        """A new tree in the store of a side, and two stores; those before are gone."""
        self.end()
        for before in self._folder.glob(f"*-{self._number}"):
            shutil.rmtree(before) if before.is_dir() else before.unlink()
        self._number += 1
        work = self._folder / f"work-{self._number}"
        work.mkdir()
        for number in range(8):
            size = dice.randint(1, TREE_BYTES // 6)
            (work / f"{number}").write_bytes(dice.randbytes(size))
        store = ChunkStore(self.store(side))
        digest = save_tree(store, work).digest
        store.close()
        return digest

    def serve(self) -> str:
        """The port of a server over the store of the other side, which is started if need be."""
        port = self._folder / f"port-{self._number}"
        if self.server is None:
            port.unlink(missing_ok=True)
            self.server = self._start("serve", "there", str(port))
        eventually(port.exists, within=20)
        return port.read_text()

    def move(self, verb: str, digest: Digest) -> "subprocess.Popen[str]":
        """A client that moves the tree."""
        return self._start(verb, "here", self.serve(), digest.hex())

    def kill_server(self) -> None:
        """kill -9, without a word."""
        assert self.server and self.server.stdout
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()
        self.server = None

    def end(self) -> None:
        """Leaves nothing behind that runs."""
        if self.server is not None:
            self.kill_server()

    def _start(self, verb: str, side: str, *rest: str) -> "subprocess.Popen[str]":
        home = str(self._homes[side])
        return subprocess.Popen(
            (
                sys.executable,
                "-m",
                "support.transfer_peer",
                verb,
                home,
                str(self.store(side)),
                *rest,
            ),
            cwd=Path(__file__).parents[1],
            env=os.environ | {"GRPC_VERBOSITY": "NONE"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    made = Transfer(tmp_path)
    yield made
    made.end()


def look(folder: Path, digest: Digest, sizes: dict[Digest, int]) -> int:
    """Bytes of the tree that arrived, each right; the tree itself is there whole or not at all."""
    store = ChunkStore(folder)
    try:
        lacking = set(store.missing(sizes))
        here = [chunk for chunk in sizes if chunk not in lacking]
        for chunk, data in store.read(here):
            assert digest_of(data) == chunk
        try:
            store.get_manifest(digest)
            assert not lacking
        except Missing:
            pass
        return sum(sizes[chunk] for chunk in here)
    finally:
        store.close()


@pytest.mark.parametrize("verb", ["send", "fetch"])
def test_kills_of_either_side_leave_nothing_half_and_send_nothing_twice(
    transfer: Transfer, verb: str
) -> None:
    dice = seeded(f"kills of a transfer: {verb}")
    kills, most = 0, rounds(6)
    while kills < most:
        kills += torture(transfer, verb, dice, most - kills)
    print(f"{verb}: {kills} kills")


def torture(transfer: Transfer, verb: str, dice: random.Random, most: int) -> int:
    """Moves one tree, killing either side again and again; how many kills it took."""
    origin, target = ("here", "there") if verb == "send" else ("there", "here")
    digest = transfer.anew(origin, dice)
    source = ChunkStore(transfer.store(origin))
    sizes = source.get_manifest(digest).chunk_sizes()
    source.close()
    whole, arrived, kills = sum(sizes.values()), 0, 0
    while True:
        client = transfer.move(verb, digest)
        assert client.stdout
        client.stdout.readline()
        time.sleep(dice.uniform(0, 0.5 + kills / 10))
        if client.poll() is not None or kills == most:
            said = client.stdout.read()
            client.communicate(timeout=60)
            # What had arrived was not sent again.
            assert said.strip() == str(whole - arrived)
            transfer.end()
            assert look(transfer.store(target), digest, sizes) == whole
            return kills
        if dice.random() < 0.5:
            transfer.kill_server()
        client.kill()
        client.communicate()
        transfer.end()
        kills += 1
        before, arrived = arrived, look(transfer.store(target), digest, sizes)
        assert arrived >= before
