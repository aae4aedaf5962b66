"""From pressing return to the first line of the job, on a warm agent, against a cold ssh."""

import subprocess
import sys
import time
from pathlib import Path

from parts import alternate, pair, table
from ssh_host import ssh_host

from support.lab import project

TIMES = int(sys.argv[1]) if len(sys.argv) > 1 else 15

DSTACK = Path(sys.executable).with_name("dstack")
"""As it was installed: what a person types."""


def first_line(process: subprocess.Popen[bytes]) -> None:
    """Waits for the first byte of standard output, then for the end."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == b"hi\n", line


def main() -> None:
    with ssh_host() as host, pair() as peers:
        code = project(
            peers.folder / "code",
            "workflows:\n  - name: hi\n    provider: bash\n    commands: [echo hi]\n",
        )

        def ours(*flags: str) -> float:
            began = time.perf_counter()
            with peers.laptop.popen(
                (str(DSTACK), "run", "hi", *flags),
                cwd=code,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:
                first_line(process)
                took = time.perf_counter() - began
            return took

        def theirs() -> float:
            began = time.perf_counter()
            with subprocess.Popen((*host.command, "echo hi"), stdout=subprocess.PIPE) as process:
                first_line(process)
                took = time.perf_counter() - began
            return took

        ours("--remote")
        ours("--local")
        theirs()
        remote, local, ssh = alternate(
            TIMES, lambda: ours("--remote"), lambda: ours("--local"), theirs
        )
    table(
        f"First line of the job, median of {TIMES}",
        [
            ("ssh, cold", f"{ssh * 1000:.0f} ms", "1.00"),
            ("dstack run --remote, mTLS", f"{remote * 1000:.0f} ms", f"{remote / ssh:.2f}"),
            ("dstack run --local", f"{local * 1000:.0f} ms", f"{local / ssh:.2f}"),
            ("target", "", "<= 0.60"),
        ],
    )


if __name__ == "__main__":
    main()
