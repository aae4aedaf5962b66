"""A terminal that is a command's for a while, and comes back as it was, whatever happens."""

import asyncio
import os
import signal
import termios
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from dstack_cli.output.escapes import plain

ENTER = "\x1b[?1049h\x1b[?25l"
LEAVE = "\x1b[?25h\x1b[?1049l"

QUIT = frozenset(b"qQ\x03\x04")
"""Keys that end it; Ctrl-C comes as a signal where the terminal makes one of it."""


class FullScreen:
    """Draws whole screens over each other: what stays the same is not touched.

    Attributes:
        over: Somebody wants to leave.
        resized: The size changed.
    """

    def __init__(self, stdin: int | None = 0, stdout: int = 1) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self.over = asyncio.Event()
        self.resized = asyncio.Event()

    @contextmanager
    def open(self) -> Generator[None]:
        """As long as it is open, the terminal is ours."""
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGINT: self.over.set,
            signal.SIGTERM: self.over.set,
            signal.SIGHUP: self.over.set,
            signal.SIGWINCH: self.resized.set,
            signal.SIGTSTP: self._step_aside,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        before = self._without_echo()
        try:
            if before is not None and self._stdin is not None:
                loop.add_reader(self._stdin, self._read_keys)
            self._write(ENTER)
            yield
        finally:
            if before is not None and self._stdin is not None:
                loop.remove_reader(self._stdin)
                with suppress(termios.error):  # the terminal is gone
                    termios.tcsetattr(self._stdin, termios.TCSADRAIN, before)
            self._write(LEAVE)
            for number in handlers:
                loop.remove_signal_handler(number)

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._stdout)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def show(self, lines: Sequence[str]) -> None:
        """Draws in one go, from the first line on; nothing is cleared before it is drawn over."""
        shown = "\x1b[K\n".join(plain(line) for line in lines)
        self._write(f"\x1b[H{shown}\x1b[K\x1b[J")

    def _without_echo(self) -> "list[int | list[bytes | int]] | None":
        """Has keys arrive one by one; what was before, or None if nobody can press any."""
        if self._stdin is None or not os.isatty(self._stdin):
            return None
        before = termios.tcgetattr(self._stdin)
        now = termios.tcgetattr(self._stdin)
        now[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(self._stdin, termios.TCSADRAIN, now)
        return before

    def _read_keys(self) -> None:
        assert self._stdin is not None
        try:
            keys = os.read(self._stdin, 64)
        except OSError:
            keys = b""
        if not keys or QUIT & set(keys):
            self.over.set()

    def _step_aside(self) -> None:
        """Ctrl-Z: the shell has the terminal until we are continued."""
        self._write(LEAVE)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._write(ENTER)
        self.resized.set()

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._stdout, data) :]
        except OSError:  # nobody looks any more
            self.over.set()
