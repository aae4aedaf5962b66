"""How much memory an agent and a command hold at most while they move much.

A file of 20 GiB of which 4 GiB are real, 1 MiB each between holes, and 100,000 small files. A job
on the agent makes and keeps each, `dstack cp` brings it to the laptop, and `dstack tags add` brings
another from the laptop to the agent. Peaks are of the resident set, shared libraries and all.
"""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from parts import Pair, pair, table

from support.lab import DSTACK, project

MOST_MIB = 200
MAKE = """
import os, sys
from pathlib import Path

out, kind, much = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
if kind == "sparse":
    with (out / "blob").open("wb") as file:
        for number in range(much // 5):
            file.seek(number * 5 << 20)
            file.write(os.urandom(1 << 20))
        file.truncate(much << 20)
else:
    for number in range(much):
        folder = out / f"{number // 1000}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(1000))
"""


def peak_mib(peers: Pair, *command: str, cwd: Path | None = None) -> tuple[float, float]:
    """Of the agent and of a command of the laptop."""
    agent = Path(f"/proc/{peers.daemon.pid}")
    (agent / "clear_refs").write_text("5")
    process = peers.laptop.popen(
        (sys.executable, __file__, "--watch", *DSTACK, *command), cwd=cwd, stdout=subprocess.PIPE
    )
    said, _ = process.communicate()
    assert process.returncode == 0, command
    lines = (agent / "status").read_text().splitlines()
    [highest] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(highest) / 1024, int(said.split()[-1]) / 1024


def watch(command: list[str]) -> int:
    """Runs a command and says its peak: from a process this small, what it was before is less."""
    code = subprocess.run(command, check=False).returncode
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return code


def compare(peers: Pair, kind: str, much: int) -> list[tuple[str, str, str]]:
    folder = peers.folder / kind
    code = project(
        folder / "code",
        "workflows:\n  - name: make\n    provider: bash\n    commands:\n"
        f"      - python3 make.py out {kind} {much}\n    artifacts:\n      - out\n",
    )
    (code / "make.py").write_text(MAKE)
    rows = [("kept by a job", peak_mib(peers, "run", "make", "--remote", cwd=code))]
    target = folder / "target"
    target.mkdir()
    rows.append(("dstack cp", peak_mib(peers, "cp", "@", "out", str(target))))
    rows.append(("dstack cp, nothing changed", peak_mib(peers, "cp", "@", "out", str(target))))
    if kind == "sparse":
        with (target / "out" / "blob").open("r+b") as file:
            file.write(os.urandom(100))
        rows.append(("dstack cp, onto another", peak_mib(peers, "cp", "@", "out", str(target))))
    shutil.rmtree(target)
    subprocess.run((sys.executable, code / "make.py", target, kind, str(much)), check=True)
    rows.append(("dstack tags add", peak_mib(peers, "tags", "add", kind, str(target), cwd=code)))
    shutil.rmtree(target)
    return [
        (what, f"agent {agent:.0f} MiB, command {command:.0f} MiB", f"target <= {MOST_MIB} MiB")
        for what, (agent, command) in rows
    ]


def main() -> int:
    if sys.argv[1:2] == ["--watch"]:
        return watch(sys.argv[2:])
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1
    kinds = sys.argv[2:] or ["sparse", "many"]
    for kind, much, what in (
        ("sparse", 20480, "{:,.0f} MiB, a fifth of them real"),
        ("many", 100_000, "{:,.0f} files"),
    ):
        if kind not in kinds:
            continue
        with pair() as peers:
            rows = compare(peers, kind, int(much * share))
        table(f"Most memory, {what.format(much * share)}", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
