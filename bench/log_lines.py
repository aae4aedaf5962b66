"""A million log lines of 100 bytes, written one by one, until the reader has the last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from parts import alternate, pair, seconds, table
from ssh_host import ssh_host

from support.docker_lab import DockerLab, docker_engine, import_python
from support.lab import DSTACK, project

LINES = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
WRITER = f"""import os
line = b"x" * 99 + b"\\n"
for _ in range({LINES}):
    os.write(1, line)
"""


TURNS = f"""import os
line = b"x" * 99 + b"\\n"
for _ in range({LINES} // 2):
    os.write(1, line)
    os.write(2, line)
"""
WORKFLOWS = """workflows:
  - name: write
    provider: python
    file: write.py
  - name: turns
    provider: python
    file: turns.py
"""


def main() -> None:
    with ssh_host() as host, pair() as peers:
        code = project(peers.folder / "code", WORKFLOWS, write_DOT_py=WRITER, turns_DOT_py=TURNS)
        script = code / "write.py"

        def ours(name: str) -> float:
            command = (*DSTACK, "run", name, "--remote")
            return seconds(lambda: read(command, code, peers.laptop.environment))

        raw = seconds(lambda: read((sys.executable, str(script))))
        mine, cold, turns = alternate(
            3,
            lambda: ours("write"),
            lambda: seconds(lambda: read((*host.command, sys.executable, str(script)))),
            lambda: ours("turns"),
        )
    results = [
        ("raw pipe", raw),
        ("ssh, cold", cold),
        ("dstack run --remote, mTLS", mine),
        ("the same, stdout and stderr in turns", turns),
    ]
    docker = docker_logs()
    if docker is not None:
        results.append(("docker logs -f (json-file)", docker))
    table(
        f"{LINES:,} lines of 100 bytes, seconds until the last is read",
        [(what, f"{took:.2f} s", f"{took / mine:.2f} x ours") for what, took in results],
    )


def read(
    command: tuple[str, ...], folder: Path | None = None, environment: dict[str, str] | None = None
) -> None:
    """Reads what a command writes, to the last byte."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        got = 0
        while piece := os.read(process.stdout.fileno(), 1 << 20):
            got += len(piece)
    # Our own lines of talk come on top.
    assert got - LINES * 100 in range(1000), f"{got:,} bytes"


def docker_logs() -> float | None:
    """`docker logs -f` of a container that writes the same; None where no engine can be had."""
    try:
        with docker_engine() as lab:
            return _follow(lab)
    except pytest.skip.Exception as reason:
        print(f"(no docker logs: {reason})")
        return None


def _follow(lab: DockerLab) -> float:
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
