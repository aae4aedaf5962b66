"""A home outside any mesh: its private agent starts by itself, and is ended with the test."""

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Generator
from pathlib import Path

from dstack_mesh.home import Home
from support.eventually import eventually
from support.lab import Peer, make_peer


@contextlib.contextmanager
def alone(folder: Path, **env: str) -> Generator[Peer]:
    """An empty home while the block runs."""
    peer = make_peer(folder, "home", (), DSTACK_IDLE="120", USER="ana", **env)
    try:
        yield peer
    finally:
        end_private_agent(peer)


def end_private_agent(peer: Peer) -> None:
    """Ends the agent that started by itself in a home, if there is one."""
    if (pid := agent_pid(peer)) is not None:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: agent_pid(peer) is None, within=10)


def agent_pid(peer: Peer) -> int | None:
    """The process that listens on the home's socket, as the kernel says; None if nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(Home(peer.home).agent_socket))
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("iii", credentials)[0])
