"""Bytes that shrink, agent to laptop, over networks of a gigabit and of 100 megabits a second.

Both sides are in a network namespace of their own whose loopback is that slow (`tc`, so as root),
beside `scp`, `scp -C` and `rsync -z`. What travels is the log of a training that prints much.
Ours has mutual TLS, hashes twice and syncs; the others neither hash nor sync.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from moving import clear, mesh_home, serving, side
from parts import alternate, seconds, table
from ssh_host import ssh_host

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree

TIMES = 3
MIB = 1 << 20
INSIDE = "inside"
NETWORKS = {"1 Gbit/s": "1gbit", "100 Mbit/s": "100mbit", "as fast as it goes": ""}


def write_log(path: Path, mebibytes: int) -> None:
    """Lines as a training prints them; the same every time."""
    chance = random.Random(0)
    with path.open("wb") as file:
        step = 0
        while file.tell() < mebibytes * MIB:
            step += 1
            loss, rate, speed = chance.random(), chance.random(), chance.randrange(9000, 9999)
            file.write(b"step %d loss %.5f lr %.3e tokens/s %d\n" % (step, loss, rate, speed))
        file.truncate(mebibytes * MIB)


@contextmanager
def loopback_at(rate: str) -> Generator[None]:
    """Within it, loopback passes on so much each second; all of it where no rate is given."""
    if rate:
        shape = ("tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
        subprocess.run(("tc", "qdisc", "add", "dev", "lo", "root", *shape), check=True)
    try:
        yield
    finally:
        if rate:
            subprocess.run(("tc", "qdisc", "del", "dev", "lo", "root"), check=True)


def compare(folder: Path, mebibytes: int) -> None:
    home = mesh_home(folder / "home")
    source = folder / "artifact" / "log"
    source.parent.mkdir()
    write_log(source, mebibytes)
    store = ChunkStore(folder / "store")
    digest = save_tree(store, source.parent).digest.hex()
    store.close()
    target, empty = folder / "target", folder / "empty"
    with serving("serve", home.root, folder / "store") as port, ssh_host() as host:
        ssh = " ".join(("ssh", "-p", str(host.port), *host.options))
        there = f"{host.target}:{source}"
        scp = ("scp", "-q", "-P", str(host.port), *host.options)
        ways: dict[str, tuple[str, ...]] = {
            "dstack, mTLS, hashed twice, synced": (
                *side("fetch", home.root, port, empty, digest, target),
            ),
            "scp": (*scp, there, str(target)),
            "scp -C": (*scp, "-C", there, str(target)),
            "rsync -z": ("rsync", "-tWz", "-e", ssh, there, str(target)),
        }

        def first(command: tuple[str, ...]) -> float:
            clear(empty)
            clear(target)
            took = seconds(lambda: subprocess.run(command, check=True))
            assert (target / "log").stat().st_size == source.stat().st_size
            return took

        for network, rate in NETWORKS.items():
            with loopback_at(rate):
                took = alternate(TIMES, *[partial(first, way) for way in ways.values()])
            table(
                f"{mebibytes} MiB of a log, {network}, median of {TIMES}; last: theirs / ours",
                [
                    (name, f"{mebibytes * MIB / 1e6 / one:.0f} MB/s", f"{one / took[0]:.2f}")
                    for name, one in zip(ways, took, strict=True)
                ],
            )


def main() -> None:
    mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    if sys.argv[2:] == [INSIDE]:
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            compare(Path(folder), mebibytes)
    elif os.geteuid() or not shutil.which("tc"):
        print("A slow network is made by `tc`, as root: not measured.")
    else:
        again = (sys.executable, __file__, str(mebibytes), INSIDE)
        sys.exit(subprocess.run(("unshare", "--net", *again), check=False).returncode)


if __name__ == "__main__":
    main()
