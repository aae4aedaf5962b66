"""A command in front of somebody: in a terminal of its own, whose keys are pressed."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

from support.lab import DSTACK, Peer


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, peer: Peer, *arguments: str) -> None:
        self.seen = b""
        paths = os.pathsep.join(filter(None, sys.path))
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(peer.home)
            os.execve(
                DSTACK[0],
                [*DSTACK, *arguments],
                peer.environment | {"TERM": "xterm", "PYTHONPATH": paths},
            )

    def read_until(self, text: str, within: float = 20) -> float:
        """Reads until the text was shown; how many seconds that took."""
        began = time.monotonic()
        while text.encode() not in self.seen:
            left = began + within - time.monotonic()
            assert left > 0, f"{text!r} not within {within} s: {self.seen!r}"
            if select.select([self._fd], [], [], left)[0]:
                try:
                    self.seen += os.read(self._fd, 65536)
                except OSError:
                    break
        assert text.encode() in self.seen, self.seen
        return time.monotonic() - began

    def read(self) -> bool:
        """Reads what is there now; whether there was something."""
        if not select.select([self._fd], [], [], 0.05)[0]:
            return False
        try:
            self.seen += os.read(self._fd, 65536)
        except OSError:  # nobody is at the other end any more
            return False
        return True

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Makes the window as large; whoever draws in it is told by the kernel."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self, within: float = 20) -> int:
        """The exit code, once it ended."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read():
                    pass
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self._fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self._fd, 65536)
                except OSError:
                    time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"it did not end: {self.seen!r}")
