"""A million log lines of 100 bytes, written one by one, until the reader has the last."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from parts import pair, seconds, table
from ssh_host import ssh_host

from support.docker_lab import DockerLab, docker_engine, import_python
from support.lab import DSTACK, project

LINES = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
WRITER = f"""import os
line = b"x" * 99 + b"\\n"
for _ in range({LINES}):
    os.write(1, line)
"""


def main() -> None:
    size = LINES * 100
    with ssh_host() as host, pair() as peers:
        code = project(
            peers.folder / "code",
            "workflows:\n  - name: write\n    provider: python\n    file: write.py\n",
            write_DOT_py=WRITER,
        )
        script = code / "write.py"

        def read(command: tuple[str, ...], folder: str | None = None) -> None:
            with subprocess.Popen(
                command,
                cwd=folder,
                env=peers.laptop.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:
                assert process.stdout is not None
                got = 0
                while piece := process.stdout.read1(1 << 20):
                    got += len(piece)
            assert got == size, f"{got} of {size} bytes"

        def ours() -> None:
            read((*DSTACK, "run", "write", "--remote"), str(code))

        def ssh() -> None:
            read((*host.command, sys.executable, str(script)))

        results = [("raw pipe", seconds(lambda: read((sys.executable, str(script)))))]
        turns = [(seconds(ssh), seconds(ours)) for _ in range(3)]
        cold = sorted(turn[0] for turn in turns)[1]
        mine = sorted(turn[1] for turn in turns)[1]
        results += [("ssh, cold", cold), ("dstack run --remote, mTLS", mine)]
        docker = docker_logs(read)
        if docker is not None:
            results.append(("docker logs -f (json-file)", docker))
    table(
        f"{LINES:,} lines of 100 bytes, seconds until the last is read",
        [(what, f"{took:.2f} s", f"{took / mine:.2f} x ours") for what, took in results],
    )


def docker_logs(read: Callable[..., None]) -> float | None:
    """`docker logs -f` of a container that writes the same; None where no engine can be had."""
    try:
        with docker_engine() as lab:
            return _follow(lab, read)
    except pytest.skip.Exception as reason:
        print(f"(no docker logs: {reason})")
        return None


def _follow(lab: DockerLab, read: Callable[..., None]) -> float:
    name = f"bench-{LINES}"
    run = ("run", "-d", "--name", name, "--network", "none", "--log-driver", "json-file")
    image = import_python(lab)

    def follow() -> None:
        lab.docker(*run, image, "python3", "-c", WRITER)
        read(("docker", "--host", lab.host, "logs", "-f", name))

    try:
        return seconds(follow)
    finally:
        lab.docker("rm", "-f", name, check=False)


if __name__ == "__main__":
    main()
