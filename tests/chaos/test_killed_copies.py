"""kill -9 of the installed `dstack cp` at random moments: it goes on where it was.

`DSTACK_CHAOS_ROUNDS` counts the kills.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from dstack_mesh.chunks.drafts import chunks_in, draft_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from support.lab import DSTACK, Peer, join_mesh, make_peer
from support.rounds import rounds, seeded

MIB = 1 << 20
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6}


@dataclass
class Lab:
    """A laptop, and a tree on an agent."""

    laptop: Peer
    run: str
    files: dict[str, bytes]
    manifest: Manifest
    out: Path

    def copy(self) -> "subprocess.Popen[bytes]":
        """The command, going on."""
        words = (*DSTACK, "cp", self.run, ".", str(self.out))
        pipe = subprocess.PIPE
        return self.laptop.popen(words, stdout=pipe, stderr=subprocess.STDOUT)

    def here(self) -> int:
        """Bytes that are verified at the target, none of them half-visible."""
        found = 0
        for entry in self.manifest.entries:
            assert isinstance(entry, FileEntry)
            whole, draft = self.out / entry.path, self.out / draft_of(entry)
            if whole.exists():
                assert whole.read_bytes() == self.files[entry.path]
                found += entry.size_bytes
            elif draft.exists():
                with draft.open("r+b") as file:
                    flags = chunks_in(file.fileno(), entry)
                assert flags is not None
                found += sum(size for (_, size), is_here in zip(entry.chunks(), flags, strict=True)
                             if is_here)  # fmt: skip
        return found

    def written(self) -> int:
        """Bytes at the target by now, roughly."""
        total = 0
        for path in self.out.iterdir() if self.out.exists() else ():
            try:
                total += path.stat().st_blocks * 512
            except FileNotFoundError:  # it got its name
                continue
        return total

    def kill(self, dice: Random) -> bool:
        """kill -9 at some moment; False if the command was over before."""
        until = dice.uniform(0, sum(map(len, self.files.values())))
        copying = self.copy()
        with copying:
            while copying.poll() is None and self.written() < until:
                time.sleep(0.0005)
            copying.kill()
        return copying.returncode != 0

    def finish(self) -> float:
        """Lets the command come to its end; how much of it was here, as it says."""
        with self.copy() as copying:
            assert copying.stdout
            said = copying.stdout.read().decode()
        assert copying.returncode == 0, said
        found = re.search(r"([0-9.]+) (B|kB|MB) of it was here", said)
        return float(found[1]) * UNITS[found[2]] if found else 0.0


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    dice = Random(1)
    files = {"large": dice.randbytes(40 * MIB)}
    files |= {f"{number:03}": dice.randbytes(20_000) for number in range(200)}
    (tmp_path / "tree").mkdir()
    for name, data in files.items():
        (tmp_path / "tree" / name).write_bytes(data)
    agent = make_peer(tmp_path, "ws-1", DSTACK_MDNS="0")
    laptop = make_peer(tmp_path, "laptop")
    join_mesh(agent, laptop)
    with agent.runner("--listen", "127.0.0.1:0", "--no-mdns") as daemon:
        port = daemon.log.read_text().split("port ")[-1].split()[0].rstrip(".,;")
        seeds = {"DSTACK_MDNS": "0", "DSTACK_SEEDS": f"127.0.0.1:{port}"}
        run = agent.json("tags", "add", "files", "tree", cwd=tmp_path)["run"]
        [kept] = agent.json("ls", run, "-t")["items"]
        store = ChunkStore(Home(agent.home).chunks)
        manifest = store.get_manifest(Digest(bytes.fromhex(kept["digest"].removeprefix("tree:"))))
        store.close()
        yield Lab(replace(laptop, env=seeds), run, files, manifest, tmp_path / "out")


def test_a_command_that_is_killed_again_and_again_goes_on_where_it_was(lab: Lab) -> None:
    dice = seeded("kills of dstack cp")
    kills = 0
    while kills < rounds(2):
        for _ in range(dice.randint(1, 3)):
            kills += lab.kill(dice)
        here = lab.here()
        assert lab.finish() >= here * 0.98 - MIB  # what is printed is rounded
        assert {path.name: path.read_bytes() for path in lab.out.iterdir()} == lab.files
        shutil.rmtree(lab.out)
    print(f"{kills} kills")
