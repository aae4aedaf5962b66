"""A second version of 1 GiB after four kinds of edits, against rsync's delta and restic.

Ours from the laptop: what `dstack run` does with a folder, cut into the laptop's store and sent to
the agent's, durable in both. Ours to the laptop: what `dstack cp` does, onto the version that was
brought before. Theirs: rsync's delta over ssh onto the version before, not synced; `restic backup`
into a repository on this disk that has it, where restic is installed. Bytes are counted on the
socket, both ways, TLS and all, in a turn that is not timed.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moving import mesh_home, serving, side
from parts import alternate, seconds, table
from ssh_host import SshHost, ssh_host

from support.tcp_proxy import TcpProxy, tcp_proxy

TIMES = 3
MIB = 1 << 20
PAGE = 4 << 10
RUNS = 100
RESTIC = shutil.which("restic")


def append(file: Path, dice: random.Random) -> None:
    """One percent more at the end."""
    with file.open("ab") as open_file:
        open_file.write(dice.randbytes(file.stat().st_size // 100))


def insert(file: Path, dice: random.Random) -> None:
    """1 MiB of a GiB in front of everything."""
    before = file.read_bytes()
    with file.open("wb") as open_file:
        open_file.write(dice.randbytes(len(before) // 1024))
        open_file.write(before)


def scatter(file: Path, dice: random.Random) -> None:
    """One percent of all pages, anywhere."""
    pages = file.stat().st_size // PAGE
    with file.open("r+b") as open_file:
        for page in sorted(dice.sample(range(pages), pages // 100)):
            open_file.seek(page * PAGE)
            open_file.write(dice.randbytes(PAGE))


def rewrite(file: Path, dice: random.Random) -> None:
    """One percent, in 100 runs."""
    size = file.stat().st_size
    run = size // 100 // RUNS
    with file.open("r+b") as open_file:
        for _ in range(RUNS):
            open_file.seek(dice.randrange(size - run))
            open_file.write(dice.randbytes(run))


EDITS: tuple[tuple[str, Callable[[Path, random.Random], None], float], ...] = (
    ("1 % appended", append, 1.5),
    ("a thousandth inserted in front", insert, 0.5),
    ("1 % in scattered pages", scatter, 10.0),
    ("1 % in 100 runs", rewrite, 2.0),
)


@dataclass(frozen=True, slots=True)
class Versions:
    """A file, an edited copy of it, and the ways to bring one to where the other is."""

    folder: Path
    host: SshHost
    port: int
    edit: Callable[[Path, random.Random], None]
    dice: random.Random

    @property
    def old(self) -> Path:
        return self.folder / "old"

    @property
    def new(self) -> Path:
        return self.folder / "new"

    def anew(self, way: Callable[[], float]) -> Callable[[], float]:
        """One of them, for an edit that nobody has seen."""

        def turn() -> float:
            shutil.rmtree(self.new, ignore_errors=True)
            shutil.copytree(self.old, self.new)
            self.edit(self.new / "blob", self.dice)
            os.sync()
            return way()

        return turn

    def send(self, port: int = 0, source: Path | None = None) -> str:
        """The tree's name, once it is at the agent."""
        home, store = self.folder / "home", self.folder / "laptop"
        return said(side("send", home, port or self.port, store, source or self.new))

    def send_timed(self) -> float:
        return seconds(self.send)

    def fetch(self, digest: str, port: int = 0) -> None:
        """Onto what was fetched before."""
        home, store = self.folder / "home", self.folder / "fetching"
        said(side("fetch", home, port or self.port, store, digest, self.folder / "target"))

    def fetch_timed(self) -> float:
        """As `dstack cp`, onto the version before."""
        self.fetch(self.send(source=self.old))
        digest = self.send()
        os.sync()
        return seconds(lambda: self.fetch(digest))

    def sync(self) -> float:
        """rsync onto the version before."""
        target = self.folder / "theirs"
        shutil.copytree(self.old, target, dirs_exist_ok=True)
        os.sync()
        ssh = " ".join(("ssh", "-p", str(self.host.port), *self.host.options))
        source = f"{self.host.target}:{self.new}/blob"
        return seconds(lambda: said(("rsync", "-t", "--no-W", "-e", ssh, source, str(target))))

    def back_up(self) -> float:
        """Into the repository of the version before; 0 where there is no restic."""
        if not RESTIC:
            return 0.0
        return seconds(lambda: restic(self.folder / "repository", "backup", str(self.new)))


def said(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def restic(repository: Path, *command: str) -> None:
    program = (str(RESTIC), "-q", "--no-cache", "-r", str(repository))
    environment = os.environ | {"RESTIC_PASSWORD": "bench"}
    subprocess.run((*program, *command), check=True, env=environment)


def compare(folder: Path, host: SshHost, mebibytes: int, times: int) -> None:
    home = mesh_home(folder / "home")
    old = folder / "old"
    old.mkdir()
    with (old / "blob").open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))
    if RESTIC:
        restic(folder / "repository", "init")
        restic(folder / "repository", "backup", str(old))
    with serving("serve", home.root, folder / "agent") as port, tcp_proxy(port) as proxy:
        for name, edit, most in EDITS:
            versions = Versions(folder, host, port, edit, random.Random(name))
            sent, fetched = _count(versions, proxy)
            size = mebibytes * MIB / 100
            ways = (versions.send_timed, versions.fetch_timed, versions.sync, versions.back_up)
            ours, back, rsynced, backed = alternate(times, *map(versions.anew, ways))
            table(
                f"{name}, {mebibytes} MiB, median of {times}; last: theirs / ours, both ways",
                [
                    ("dstack, cut and sent", f"{sent / size:.2f} %, {ours:.2f} s", f"<= {most} %"),
                    ("dstack, fetched onto it", f"{fetched / size:.2f} %, {back:.2f} s", ""),
                    *(
                        (what, f"{took:.2f} s", f"{took / ours:.2f}, {took / back:.2f} {wanted}")
                        for what, took, wanted in (
                            ("rsync's delta over ssh", rsynced, "(target >= 1.0)"),
                            ("restic backup", backed, "(target >= 2.0, sent)"),
                        )
                        if took
                    ),
                ],
            )


def _count(versions: Versions, proxy: TcpProxy) -> tuple[int, int]:
    """Bytes on the socket, both ways, to send an edit and to fetch it."""
    versions.fetch(versions.send(source=versions.old))
    counted: list[int] = []

    def both() -> float:
        before = proxy.passed + proxy.returned
        digest = versions.send(proxy.port)
        between = proxy.passed + proxy.returned
        versions.fetch(digest, proxy.port)
        counted.extend((between - before, proxy.passed + proxy.returned - between))
        return 0.0

    versions.anew(both)()
    assert (versions.folder / "target/blob").read_bytes() == (versions.new / "blob").read_bytes()
    return counted[0], counted[1]


def main() -> None:
    mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    times = int(sys.argv[2]) if len(sys.argv) > 2 else TIMES
    with ssh_host() as host, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        compare(Path(folder), host, mebibytes, times)


if __name__ == "__main__":
    main()
