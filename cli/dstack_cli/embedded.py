"""The agent of this home: used if one runs, else a private one is started as a process of its own.

A private agent serves its owner alone, on a Unix socket, and leaves when it was idle for a while.
Two commands may start one at once: the agent itself lets only one live, both use that one, and the
other is ended before its turn comes.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from dstack_mesh.faults import Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home

READY_WITHIN_SECONDS = 10.0
LOOK_EVERY_SECONDS = 0.01
RETIRE_SECONDS = 3.0
TAIL_LINES = 8
_CREDENTIALS = struct.Struct("iII")
"""What the kernel says of a peer on a Unix socket: process, user, group."""


@frozen
class Starting:
    """An agent that was started and does not answer yet."""

    process: "subprocess.Popen[bytes]"
    log: Path
    log_from: int


def answers(home: Home) -> bool:
    """Whether an agent of this home listens now."""
    return _server(home) is not None


def _server(home: Home) -> int | None:
    """The process that listens for this home's owner; None if nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(home.agent_socket))
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return int(pid)


def start(home: Home) -> Starting:
    """Starts a private agent that outlives this command; it is not waited for."""
    home.prepare()
    log = home.state / "agent.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            (
                sys.executable,
                *("-m", "dstack_agent.command"),
                *("start", "--private", "--home", str(home.root)),
            ),
            cwd=home.root,
            env=os.environ | {"DSTACK_HOME": str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        return Starting(process, log, sink.tell())


def wait_until_ready(home: Home, starting: Starting) -> None:
    """Returns once an agent answers: the one that was started, or one that was faster.

    Raises:
        Unreachable: It ended, or it does not answer in time; the end of its log is told.
    """
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while (serving := _server(home)) is None:
        ended = starting.process.poll()
        if ended not in (None, 0) and not answers(home) and not _another_starts(home, deadline):
            raise _did_not_start(starting, f"It ended with exit code {ended}.")
        if time.monotonic() > deadline:
            raise _did_not_start(starting, f"It did not answer in {READY_WITHIN_SECONDS:.0f} s.")
        time.sleep(LOOK_EVERY_SECONDS)
    if serving != starting.process.pid:
        # Nobody needs it, and if it were slow it would take the home after the other has left.
        starting.process.terminate()


def ensure(home: Home) -> None:
    """Makes sure that an agent of this home answers."""
    if not answers(home):
        wait_until_ready(home, start(home))


def retire(home: Home) -> None:
    """Ends the agent of this home, which is private as long as no mesh was joined.

    Its jobs go on; whoever serves this home next finds them. Without this a daemon could not start
    in a home that has just joined.
    """
    pid = _server(home)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + RETIRE_SECONDS
    while answers(home) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_SECONDS)


def _another_starts(home: Home, deadline: float) -> bool:
    """Whether an agent that somebody else started at the same moment comes up after all."""
    patience = min(deadline, time.monotonic() + 1.0)
    while time.monotonic() < patience:
        if answers(home):
            return True
        time.sleep(LOOK_EVERY_SECONDS)
    return False


def _did_not_start(starting: Starting, why: str) -> Unreachable:
    with starting.log.open("rb") as log:
        log.seek(starting.log_from)
        tail = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    said = "\n".join(["The last it said:", *(f"  {line}" for line in tail)] if tail else [])
    return Unreachable(
        "The agent of this machine did not start.",
        f"{why}\n{said}".strip(),
        f"the whole log is in {starting.log}; dstack doctor checks this machine",
        code="agent-did-not-start",
    )


def ran_before(home: Home) -> bool:
    """Whether an agent of this home has run jobs, also if their folders are gone since."""
    try:
        if any(home.jobs.iterdir()):
            return True
    except FileNotFoundError:
        return False
    return _remembers_jobs(home)


def _remembers_jobs(home: Home) -> bool:
    import sqlite3  # most homes have folders of jobs

    file = home.state / "agent.db"
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            return database.execute("SELECT 1 FROM job LIMIT 1").fetchone() is not None
    except sqlite3.Error:  # its agent says better what is wrong
        return True
