"""Commands that are run beside a job by whoever submitted it. Standard library only: the shim
imports it.

Each has a process of its own above it, its host, which the shim forks: with the job's environment
in memory, outside its walls, and the parent of every orphan below. So the command and all that it
started end together: by themselves, when whoever asked goes away, or with the job.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH108

import contextlib
import os
import signal
import sys

from dstack_agent.executor import asking, tree
from dstack_agent.executor.task import Task
from dstack_agent.executor.vault import write_private
from dstack_agent.logs.address import socket_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

MOST = 64
"""Commands beside one job at a time."""


class Guests:
    """The commands beside one job. Where there can be no hatch there are none, and the job runs.

    Attributes:
        hatch: Can be read from when somebody is there; negative for no hatch.
    """

    def __init__(self, folder: str, task: Task) -> None:
        self._folder = folder
        self._task = task
        self._key = os.urandom(asking.KEY_BYTES)
        self._hosts: set[int] = set()
        self._listening: socket.socket | None = None
        self.hatch = -1

    def open(self) -> None:
        """Lets whoever knows the key ask; call it once the job was forked off."""
        try:
            write_private(f"{self._folder}/{asking.KEY}", self._key)
            self._listening = _listening(self._folder)
            self.hatch = self._listening.fileno()
        except OSError as error:
            print(f"nobody gets in beside the job: {error}", file=sys.stderr)

    def let_in(self, job: int, started: int) -> None:
        """Gives whoever is at the hatch a host.

        Args:
            job: The job's process.
            started: Ends once its walls are up.
        """
        try:
            assert self._listening is not None
            connection, _ = self._listening.accept()
        except OSError:  # gone meanwhile
            return
        with connection:
            if len(self._hosts) >= MOST:
                return
            shim = os.getpid()
            pid = os.fork()
            if pid == 0:
                try:
                    from dstack_agent.executor.hosting import Host, be_host  # only hosts pay for it

                    be_host(Host(self._task, self._key, connection), shim, job, started)
                finally:
                    os._exit(1)
            self._hosts.add(pid)

    def left(self, pid: int) -> None:
        """A child of the shim ended."""
        self._hosts.discard(pid)

    def end(self) -> None:
        """Ends every command that goes on, at once: the job is over."""
        tree.send(self._hosts, signal.SIGSTOP)  # or it tells of an end that looks like its own
        for host in self._hosts:
            tree.kill_below(host)
        tree.send(self._hosts, signal.SIGKILL)

    def shut(self) -> None:
        """Has nobody find the hatch any more."""
        if self._listening is not None:
            self._listening.close()
            for name in (asking.HATCH, asking.KEY):
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._folder}/{name}")


def _listening(folder: str) -> "socket.socket":
    """The hatch of a job. Raises OSError."""
    import socket  # takes long; the job runs by now

    address, held = socket_address(f"{folder}/{asking.HATCH}")
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    hatch = socket.socket(socket.AF_UNIX, kind)
    try:
        hatch.bind(address)
        hatch.listen(8)
    except OSError:
        hatch.close()
        raise
    finally:
        if held is not None:
            os.close(held)
    return hatch
