"""1 GiB that nobody can compress, agent to laptop, against a raw socket, scp and rsync over ssh.

Ours and the raw peer are in `moving.py`; the same as a person has it is `dstack cp` of what a run
kept on an agent. Theirs: a new scp or rsync, encrypted and neither hashed nor synced unless the row
says so. Then the same again, when nothing changed. All on loopback, in turns, each beginning with
the process.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moving import clear, mesh_home, serving, side
from parts import Pair, alternate, pair, seconds, table
from ssh_host import SshHost, ssh_host

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from support.lab import project

TIMES = 3
MIB = 1 << 20


def keep_artifact(peers: Pair, source: Path) -> None:
    """A run on the agent whose artifact holds a file; `@` names it from then on."""
    code = project(
        peers.folder / "code",
        "workflows:\n  - name: make\n    provider: bash\n    commands:\n"
        f"      - cp {source} out/blob\n    artifacts:\n      - out\n",
    )
    peers.laptop.dstack("run", "make", "--remote", cwd=code, timeout=600, check=True)


@dataclass(frozen=True, slots=True)
class Laptop:
    """The ways to bring the file to a folder, each timed."""

    folder: Path
    host: SshHost
    peers: Pair
    source: Path
    digest: str
    port: int
    raw_port: int

    @property
    def target(self) -> Path:
        return self.folder / "target"

    def first(self, way: Callable[[], float]) -> float:
        """One of them, when nothing is there yet."""
        clear(self.folder / "empty")
        clear(self.target)
        return way()

    def fetch(self) -> float:
        store = self.folder / "empty"
        home = self.folder / "home"
        return _run(*side("fetch", home, self.port, store, self.digest, self.target))

    def raw(self) -> float:
        size, home = self.source.stat().st_size, self.folder / "home"
        return _run(*side("raw-fetch", home, self.raw_port, size, self.target / "blob"))

    def cp(self) -> float:
        copy = ("cp", "@", "out/blob", str(self.target / "blob"))
        return seconds(lambda: self.peers.laptop.dstack(*copy, check=True))

    def scp(self) -> float:
        flags = ("-q", "-P", self.host.port, *self.host.options)
        return _run("scp", *flags, self.there, self.target)

    def rsync(self, *flags: str) -> float:
        ssh = " ".join(("ssh", "-p", str(self.host.port), *self.host.options))
        return _run("rsync", "-tW", *flags, "-e", ssh, self.there, self.target)

    @property
    def there(self) -> str:
        return f"{self.host.target}:{self.source}"


def _run(*command: object) -> float:
    return seconds(lambda: subprocess.run([str(part) for part in command], check=True))


def compare(folder: Path, peers: Pair, host: SshHost, mebibytes: int) -> None:
    home = mesh_home(folder / "home")
    source = folder / "artifact" / "blob"
    source.parent.mkdir()
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))
    store = ChunkStore(folder / "store")
    saving = seconds(lambda: save_tree(store, source.parent))
    digest = save_tree(store, source.parent).digest.hex()
    store.close()
    keep_artifact(peers, source)
    with (
        serving("serve", home.root, folder / "store") as port,
        serving("raw-serve", home.root, source) as raw_port,
    ):
        laptop = Laptop(folder, host, peers, source, digest, port, raw_port)
        for way in (laptop.fetch, laptop.raw, laptop.cp):
            laptop.first(way)
            assert (laptop.target / "blob").read_bytes() == source.read_bytes()
        _show_first(laptop, mebibytes * MIB / 1e6, saving)
        _show_again(laptop)


def _show_first(laptop: Laptop, megabytes: float, saving: float) -> None:
    ways = (
        laptop.fetch,
        laptop.cp,
        laptop.raw,
        laptop.scp,
        laptop.rsync,
        lambda: laptop.rsync("--fsync"),
    )
    ours, *others = alternate(TIMES, *[partial(laptop.first, way) for way in ways])
    names = (
        ("dstack cp @ out/blob, the same", ""),
        ("raw mTLS socket, hashed twice, synced", " (target >= 1.0)"),
        ("scp", " (target >= 2.5)"),
        ("rsync -W over ssh", " (target >= 2.0)"),
        ("rsync -W --fsync over ssh", ""),
    )
    table(
        f"{megabytes:.0f} MB, agent to laptop, median of {TIMES}; last: theirs / ours",
        [
            ("dstack, mTLS, hashed twice, synced", f"{megabytes / ours:.0f} MB/s", "1.00"),
            *(
                (name, f"{megabytes / took:.0f} MB/s", f"{took / ours:.2f}{wanted}")
                for (name, wanted), took in zip(names, others, strict=True)
            ),
            ("saving it to the store first", f"{megabytes / saving:.0f} MB/s", ""),
        ],
    )


def _show_again(laptop: Laptop) -> None:
    rows: list[tuple[str, float]] = []
    for name, way in (
        ("dstack", laptop.fetch),
        ("dstack cp", laptop.cp),
        ("rsync over ssh", laptop.rsync),
    ):
        laptop.first(way)
        rows.append((name, alternate(TIMES, way)[0]))
    ours = rows[0][1]
    table(
        "The same again, nothing changed; last: theirs / ours (target >= 1.0)",
        [(name, f"{took * 1000:.0f} ms", f"{took / ours:.2f}") for name, took in rows],
    )


def main() -> None:
    mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with (
        ssh_host() as host,
        pair() as peers,
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
    ):
        compare(Path(folder), peers, host, mebibytes)


if __name__ == "__main__":
    main()
