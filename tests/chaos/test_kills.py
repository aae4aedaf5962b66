"""kill -9 of either side while a job writes: nothing is lost, nothing is doubled."""

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psutil import process_iter

from support.eventually import eventually
from support.lab import DSTACK, Peer, join_mesh, make_peer, project, said
from support.rounds import rounds, seeded

pytestmark = pytest.mark.chaos

WRITE = """
import hashlib, sys
block = b"".join(hashlib.sha256(b"%d" % i).hexdigest().encode() + b"\\n" for i in range(1000))
for _ in range(int(sys.argv[1])):
    sys.stdout.buffer.write(block)
"""

COUNT = """
import sys, time
for i in range(int(sys.argv[1])):
    print(f"line {i} " + "x" * (i % 97), flush=True)
    if i % 20 == 0:
        print(f"note {i}", file=sys.stderr, flush=True)
    time.sleep(0.002)
sys.exit(7)
"""

WORKFLOWS = """
workflows:
  - name: write
    provider: python
    file: write.py
    args: ${{ run.args }}
  - name: count
    provider: python
    file: count.py
    args: ${{ run.args }}
"""


def written(blocks: int) -> bytes:
    """What write.py writes."""
    lines = (hashlib.sha256(b"%d" % i).hexdigest().encode() + b"\n" for i in range(1000))
    return b"".join(lines) * blocks


def counted(lines: int) -> tuple[bytes, bytes]:
    """What count.py writes on both streams."""
    out = "".join(f"line {i} " + "x" * (i % 97) + "\n" for i in range(lines))
    err = "".join(f"note {i}\n" for i in range(0, lines, 20))
    return out.encode(), err.encode()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return project(tmp_path / "code", WORKFLOWS, write_DOT_py=WRITE, count_DOT_py=COUNT)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Peer, Peer]]:
    """A workstation and a laptop of one mesh, on loopback."""
    station = make_peer(tmp_path, "ws", DSTACK_MDNS="0")
    laptop = make_peer(tmp_path, "laptop", DSTACK_MDNS="0")
    join_mesh(station, laptop)
    yield station, laptop


def test_a_killed_cli_loses_no_byte_of_the_log(
    pair: tuple[Peer, Peer], code: Path, free_port: int
) -> None:
    station, laptop = pair
    chance = seeded("cli")
    blocks = 1540  # 100 MB
    expected = hashlib.sha256(written(blocks)).hexdigest()
    laptop.env = {**laptop.env, "DSTACK_SEEDS": f"127.0.0.1:{free_port}"}
    with station.runner("--listen", f"127.0.0.1:{free_port}"):
        for round_ in range(rounds(4)):
            attached = laptop.popen(
                (*DSTACK, "run", "write", str(blocks), "--remote"),
                cwd=code,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            assert attached.stderr is not None
            first = attached.stderr.readline().decode()
            time.sleep(chance.random() * 1.0)
            attached.send_signal(signal.SIGKILL)
            attached.wait()
            attached.stderr.close()
            name = laptop.json("ps", "-a")["items"][0]["run"]
            ended = laptop.dstack("wait", name, timeout=120)
            assert ended.returncode == 0, f"round {round_}: {first}{said(ended)}"
            logs = laptop.dstack("logs", name, timeout=120)
            assert hashlib.sha256(logs.stdout).hexdigest() == expected, f"round {round_}: {name}"


def test_a_killed_agent_leaves_the_job_running_and_finds_it_again(
    pair: tuple[Peer, Peer], code: Path, free_port: int
) -> None:
    station, laptop = pair
    chance = seeded("agent")
    lines = 1000
    out, err = counted(lines)
    laptop.env = {**laptop.env, "DSTACK_SEEDS": f"127.0.0.1:{free_port}"}
    with station.runner("--listen", f"127.0.0.1:{free_port}") as daemon:
        for round_ in range(rounds(4)):
            attached = laptop.popen(
                (*DSTACK, "run", "count", str(lines), "--remote"),
                cwd=code,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,  # what readline read ahead, communicate would not find
            )
            assert attached.stdout is not None
            seen = attached.stdout.readline()
            time.sleep(chance.random() * 1.5)
            daemon.kill()
            ready = daemon.start()
            assert ready <= 5, f"round {round_}: ready after {ready:.1f} s"
            rest, talk = attached.communicate(timeout=60)
            assert attached.returncode == 7, f"round {round_}: {talk.decode()}"
            assert seen + rest == out, f"round {round_}"
            name = laptop.json("ps", "-a")["items"][0]["run"]
            again = laptop.dstack("logs", "-f", name)
            assert again.stdout == out
            assert again.stderr.startswith(err)
            assert again.returncode == 7


def test_a_stopped_job_leaves_no_process_behind(
    pair: tuple[Peer, Peer], tmp_path: Path, free_port: int
) -> None:
    """The whole tree ends, daemons that left their session included."""
    station, laptop = pair
    mark = f"mark-{os.getpid()}-{free_port}"
    code = project(
        tmp_path / "tree",
        "workflows:\n"
        "  - name: tree\n"
        "    provider: bash\n"
        "    commands:\n"
        f"      - (setsid bash -c 'exec -a {mark} sleep 600' &)\n"
        f"      - setsid bash -c 'exec -a {mark} sleep 600' &\n"
        f"      - bash -c 'exec -a {mark} sleep 600' &\n"
        "      - echo started\n"
        "      - sleep 600\n",
    )
    laptop.env = {**laptop.env, "DSTACK_SEEDS": f"127.0.0.1:{free_port}"}

    def alive() -> list[str]:
        listed = (" ".join(each.info["cmdline"] or ()) for each in process_iter(["cmdline"]))
        return [line for line in listed if f"{mark} " in line]

    with station.runner("--listen", f"127.0.0.1:{free_port}"):
        name = laptop.dstack("run", "tree", "--remote", "-d", "-q", cwd=code, check=True)
        run = name.stdout.decode().strip()
        eventually(lambda: len([line for line in alive() if "bash" not in line]) == 3, within=10)
        stopped = laptop.dstack("stop", run, timeout=40)
        assert stopped.returncode == 0, said(stopped)
        assert alive() == []
