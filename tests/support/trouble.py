"""What the commands say of trouble, and how they end."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from psutil import pid_exists

from support.alone import agent_pid, alone
from support.eventually import eventually
from support.lab import RUNNER, Peer, make_peer, said

HELLO = "workflows:\n  - name: train\n    provider: bash\n    commands: [echo hi]\n"

USAGE, UNREACHABLE, INVALID, MISSING, FORBIDDEN, REFUSED, OURS = 2, 69, 64, 66, 77, 78, 125


def runner(
    peer: Peer, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs `dstack-runner …` to its end, which trouble makes come soon."""
    return subprocess.run(
        (*peer.prefix, *RUNNER, *arguments),
        cwd=cwd or peer.home,
        env=peer.environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=20,
        check=False,
    )


def told(ended: subprocess.CompletedProcess[bytes], code: int, *words: str) -> str:
    """What was said on standard error, checked to be fit for a person."""
    text = said(ended)
    assert ended.returncode == code, f"{ended.returncode}\n{text}"
    for word in words:
        assert word in text, text
    for never in ("Traceback", " bug", "E1120", ".cc:"):
        assert never not in text, text
    assert ended.stderr.strip()
    return text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with alone(tmp_path_factory.mktemp("h"), DSTACK_MDNS="0") as peer:
        yield peer


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A home that made a mesh; no agent runs in it."""
    peer = make_peer(tmp_path_factory.mktemp("m"), "founder", DSTACK_MDNS="0")
    peer.dstack("mesh", "create", "lab", check=True)
    return peer


def end_agent(peer: Peer) -> None:
    """Ends the agent that started by itself."""
    pid = agent_pid(peer)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    # Its databases are closed, and their side files gone, only when the process has ended.
    eventually(lambda: not pid_exists(pid), within=10)
