"""Lets an agent of a mesh take its home over from a private one, which a command started.

A private agent says beside its socket which process it is. Whoever is to serve the mesh asks it to
leave; its jobs go on, for their shims own them, and the successor takes them up.
"""

import asyncio
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from dstack_agent.executor.record import start_time
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Refused
from dstack_mesh.wire.server import LocalListener

TRIES = 10
"""A command may start a private agent again between the end of one and our beginning."""

PAUSE_SECONDS = 0.1
LEAVE_SECONDS = 15.0


async def take_home(
    listen: Callable[[], LocalListener], sockets: Path, private: bool
) -> Callable[[], None]:
    """Opens the owner's socket, which makes the home this process's; returns how to close it.

    Args:
        listen: Opens it. Raises Refused.
        sockets: The home's folder for sockets.
        private: Whether this is a private agent, which gives way and takes nobody's place.

    Raises:
        Refused: An agent already runs in this home that does not give way.
    """
    said = sockets / "private.pid"
    for tries in range(1, TRIES + 1):
        try:
            listener = listen()
        except Refused as error:
            if private or error.code != "already-running":
                raise
            left = await asyncio.to_thread(ask_to_leave, said)
            if tries == TRIES:
                raise
            if not left:
                await asyncio.sleep(PAUSE_SECONDS)  # it may not have said yet that it is private
        else:
            return _said(listener, said) if private else listener.close
    raise AssertionError("unreachable: the last try returns or raises")


def _said(listener: LocalListener, said: Path) -> Callable[[], None]:
    """Says that this process is the private agent of the home, until closed."""
    write_durably(said, f"{os.getpid()} {start_time(os.getpid())}".encode())

    def close() -> None:
        said.unlink(missing_ok=True)
        listener.close()

    return close


def ask_to_leave(said: Path) -> bool:
    """Ends the private agent that a file names; whether there was one and it left in time."""
    try:
        pid, started = map(int, said.read_text().split())
        process = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    try:
        # Looked at after the descriptor is open: now the pid cannot pass to another process.
        if start_time(pid) != started:
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
        return bool(select.select([process], [], [], LEAVE_SECONDS)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(process)
