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


def compare(folder: Path, peers: Pair, host: SshHost, mebibytes: int) -> None:
    home = mesh_home(folder / "home")
    source = folder / "artifact" / "blob"
    source.parent.mkdir()
    with source.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))
    store = ChunkStore(folder / "store")
    saving = seconds(lambda: save_tree(store, source.parent))
    digest = save_tree(store, source.parent).digest
    store.close()
    keep_artifact(peers, source)
    target, empty = folder / "target", folder / "empty"
    ssh = " ".join(("ssh", "-p", str(host.port), *host.options))
    there = f"{host.target}:{source}"

    with (
        serving("serve", home.root, folder / "store") as port,
        serving("raw-serve", home.root, source) as raw_port,
    ):

        def run(*command: object) -> float:
            return seconds(lambda: subprocess.run([str(part) for part in command], check=True))

        def fetch() -> float:
            return run(*side("fetch", home.root, port, empty, digest.hex(), target))

        def first() -> float:
            clear(empty)
            clear(target)
            return fetch()

        def raw() -> float:
            clear(target)
            return run(*side("raw-fetch", home.root, raw_port, mebibytes * MIB, target / "blob"))

        def cp_again() -> float:
            copy = ("cp", "@", "out/blob", str(target / "blob"))
            return seconds(lambda: peers.laptop.dstack(*copy, check=True))

        def cp() -> float:
            clear(target)
            return cp_again()

        def scp() -> float:
            clear(target)
            return run("scp", "-q", "-P", host.port, *host.options, there, target)

        def rsync(*flags: str) -> float:
            return run("rsync", "-tW", *flags, "-e", ssh, there, target)

        def rsync_first(*flags: str) -> float:
            clear(target)
            return rsync(*flags)

        for way in (first, raw, cp):
            way()
            assert (target / "blob").read_bytes() == source.read_bytes()
        ours, bare, user, copied, synced, plain = alternate(
            TIMES, first, raw, cp, scp, lambda: rsync_first("--fsync"), rsync_first
        )
        rsync_first()
        theirs_again = alternate(TIMES, rsync)[0]
        cp()
        user_again = alternate(TIMES, cp_again)[0]
        first()
        ours_again = alternate(TIMES, fetch)[0]

    def row(what: str, took: float, target: str = "") -> tuple[str, str, str]:
        rate = f"{mebibytes * MIB / 1e6 / took:.0f} MB/s"
        return what, rate, f"{took / ours:.2f}{target}"

    table(
        f"{mebibytes} MiB, agent to laptop, median of {TIMES}; last: theirs / ours",
        [
            row("dstack, mTLS, hashed twice, synced", ours),
            row("dstack cp @ out/blob, the same", user),
            row("raw mTLS socket, hashed twice, synced", bare, " (target >= 1.0)"),
            row("scp", copied, " (target >= 2.5)"),
            row("rsync -W over ssh", plain, " (target >= 2.0)"),
            row("rsync -W --fsync over ssh", synced),
            ("saving it to the store first", f"{mebibytes * MIB / 1e6 / saving:.0f} MB/s", ""),
        ],
    )
    table(
        "The same again, nothing changed; last: theirs / ours",
        [
            ("dstack", f"{ours_again * 1000:.0f} ms", "1.00"),
            ("dstack cp", f"{user_again * 1000:.0f} ms", f"{user_again / ours_again:.2f}"),
            (
                "rsync over ssh",
                f"{theirs_again * 1000:.0f} ms",
                f"{theirs_again / ours_again:.2f} (target >= 1.0)",
            ),
        ],
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
