"""20,000 files of 8 KiB, agent to laptop, against tar over ssh, and again when nothing changed.

Ours is synced, theirs is not. No folder is removed before the end: a file system that has just
removed 20,000 files makes new ones many times slower, whoever asks.
"""

import os
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

from moving import mesh_home, serving, side
from parts import alternate, seconds, table
from ssh_host import SshHost, ssh_host

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree

TIMES = 3
FILE_BYTES = 8 << 10
FOLDERS = 100


def compare(folder: Path, host: SshHost, files: int) -> None:
    home = mesh_home(folder / "home")
    source = folder / "source"
    for number in range(files):
        path = source / f"d{number % FOLDERS:02}" / f"f{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(FILE_BYTES))
    store = ChunkStore(folder / "store")
    digest = save_tree(store, source).digest
    store.close()
    numbers = count()
    ssh = " ".join(("ssh", "-p", str(host.port), *host.options))

    def fresh() -> Path:
        made = folder / f"target{next(numbers)}"
        made.mkdir()
        os.sync()
        return made

    def tar() -> float:
        remote, local = ("tar", "-C", str(source), "-cf", "-", "."), ("tar", "-C", str(fresh()))

        def both() -> None:
            with subprocess.Popen((*host.command, *remote), stdout=subprocess.PIPE) as sent:
                subprocess.run((*local, "-xf", "-"), stdin=sent.stdout, check=True)

        return seconds(both)

    def rsync(target: Path) -> float:
        command = ("rsync", "-a", "-e", ssh, f"{host.target}:{source}/", str(target))
        return seconds(lambda: subprocess.run(command, check=True))

    with serving("serve", home.root, folder / "store") as port:

        def fetch(target: Path) -> float:
            command = side("fetch", home.root, port, target / "store", digest.hex(), target / "out")
            return seconds(lambda: subprocess.run(command, check=True))

        ours_at, theirs_at = fresh(), fresh()
        ours, tarred, synced = alternate(TIMES, lambda: fetch(fresh()), tar, lambda: rsync(fresh()))
        fetch(ours_at)
        rsync(theirs_at)
        ours_again, theirs_again = alternate(
            TIMES, lambda: fetch(ours_at), lambda: rsync(theirs_at)
        )

    def row(what: str, took: float, against: float, target: str = "") -> tuple[str, str, str]:
        return what, f"{took * 1000:.0f} ms", f"{took / against:.2f}{target}"

    table(
        f"{files:,} files of 8 KiB, median of {TIMES}; last: theirs / ours",
        [
            row("dstack, mTLS, hashed twice, synced", ours, ours),
            row("tar | ssh tar", tarred, ours, " (target >= 1.0)"),
            row("rsync -a over ssh", synced, ours),
            row("dstack again, nothing changed", ours_again, ours_again),
            row("rsync -a again, nothing changed", theirs_again, ours_again, " (target >= 1.0)"),
        ],
    )


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with ssh_host() as host, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        compare(Path(folder), host, files)


if __name__ == "__main__":
    main()
