"""Peers as a person has them: a home each, the installed commands as processes.

A peer may live in a network namespace (then its commands run there), else it lives on loopback.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstack_mesh.home import Home
from support.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
DSTACK = (sys.executable, "-m", "dstack_cli.main")
RUNNER = (sys.executable, "-m", "dstack_agent.command")


@dataclass(slots=True)
class Peer:
    """One home and how to run commands in it."""

    name: str
    home: Path
    prefix: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def environment(self) -> dict[str, str]:
        ours = "DSTACK_", "AWS_"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        return kept | {"DSTACK_HOME": str(self.home), "DSTACK_NAME": self.name} | dict(self.env)

    def popen(
        self, command: Sequence[str], cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Starts a command of ours in this home."""
        started: Any = subprocess.Popen
        return started(
            (*self.prefix, *command), cwd=cwd or self.home, env=self.environment, **options
        )

    def dstack(
        self, *arguments: str, cwd: Path | None = None, timeout: float = 60, check: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs `dstack …` to its end.

        Raises:
            AssertionError: With `check`, if it did not exit 0; the output is in the message.
        """
        ended = subprocess.run(
            (*self.prefix, *DSTACK, *arguments),
            cwd=cwd or self.home,
            env=self.environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        if check:
            assert ended.returncode == 0, f"dstack {arguments}: {ended.returncode}\n{said(ended)}"
        return ended

    def json(self, *arguments: str, cwd: Path | None = None) -> Any:
        """What `dstack … --json` prints."""
        return json.loads(self.dstack(*arguments, "--json", cwd=cwd, check=True).stdout)

    def tells(self, *words: str, code: int = 0) -> "subprocess.CompletedProcess[bytes]":
        """Runs `dstack-runner …` to its end. Raises AssertionError if it exits otherwise."""
        ended = subprocess.run(
            (*RUNNER, *words),
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert ended.returncode == code, said(ended)
        return ended

    @contextlib.contextmanager
    def runner(self, *flags: str, ready_within: float = 10) -> Generator["Daemon"]:
        """An agent of this home while the block runs; its jobs are stopped with it."""
        daemon = Daemon(self, flags)
        daemon.start(ready_within)
        try:
            yield daemon
        finally:
            daemon.stop()


def said(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Both streams of a command, for messages."""
    return f"{ended.stdout.decode(errors='replace')}\n{ended.stderr.decode(errors='replace')}"


@dataclass(slots=True)
class Daemon:
    """An agent's process that can be killed and started again."""

    peer: Peer
    flags: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.peer.home / "runner.stderr"

    def start(self, ready_within: float = 10) -> float:
        """Starts it and waits until it is ready; returns the seconds that took."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = self.peer.popen(
                (*RUNNER, "start", *self.flags), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        eventually(self._ready, within=ready_within, every=0.05)
        return time.monotonic() - began

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended: {self.log.read_text()[-3000:]}")
        if not listens(self.peer):  # a command that asks too early takes the agent's processor
            return False
        asked = subprocess.run(
            (*self.peer.prefix, *RUNNER, "status", "--json"),
            cwd=self.peer.home,
            env=self.peer.environment,
            capture_output=True,
            check=False,
        )
        return asked.returncode == 0

    @property
    def pid(self) -> int:
        """The agent's own process id, also when a namespace wraps it (`ip netns exec` execs)."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)


def listens(peer: Peer) -> bool:
    """Whether anybody accepts connections at the socket of the home's agent."""
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(Home(peer.home).agent_socket))
        return True
    return False


def make_peer(folder: Path, name: str, prefix: tuple[str, ...] = (), **env: str) -> Peer:
    """A peer with an empty home below a folder."""
    home = folder / name
    home.mkdir(parents=True, mode=0o700)
    return Peer(name, home, prefix, env)


def join_mesh(founder: Peer, *others: Peer, role: str = "runner", address: str = "") -> None:
    """Makes a mesh at the founder and lets the others in, with the commands a person would use."""
    founder.dstack("mesh", "create", "lab", check=True)
    for other in others:
        with invitation(founder, role) as (code, addresses):
            where = address and f"{address}:{addresses[0].rsplit(':', 1)[1]}"
            target = (where,) if where else (addresses[0],)
            other.dstack("mesh", "join", code, *target, "--yes", check=True)


@contextlib.contextmanager
def invitation(founder: Peer, role: str) -> Generator[tuple[str, list[str]]]:
    """A code and where to use it; afterwards waits until it was used."""
    process = founder.popen(
        (*DSTACK, "mesh", "invite", "--role", role, "--json"),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        yield first["code"], first["addresses"]
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def project(folder: Path, workflows: str, **files: str) -> Path:
    """A folder with a workflow file (and others) that is a git repository with one commit."""
    (folder / ".dstack").mkdir(parents=True)
    (folder / ".dstack" / "workflows.yaml").write_text(workflows)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    identity = ("-c", "user.name=ana", "-c", "user.email=ana@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run(("git", *identity, *command), cwd=folder, check=True)
    return folder
