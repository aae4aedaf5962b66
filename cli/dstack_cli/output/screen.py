"""What somebody sees while a run goes on: talk, a live line, and the job's own output between them.

The job's bytes go to the stream the job wrote them to, unchanged where that is no terminal. On a
terminal one line at the bottom lives: it is taken away before anything else is written, and comes
back only where a line begins, so that it never mixes with a half line or a progress bar of the job.
"""

import asyncio
import os
import select

from dstack_cli.output.escapes import EscapeFilter, plain
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import duration
from dstack_scheduler.job import LogStream

PIECE_BYTES = 4096
"""A pipe that polls as writable takes this much without blocking (PIPE_BUF)."""
TERMINAL_PIECE_BYTES = 256
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PLAIN_EVERY_SECONDS = 30.0
QUIET_SECONDS = 1.0
"""How long a job must be silent before the live line comes back."""


class Screen:
    """Writes to the streams of this process. One task at a time may write a job's output."""

    def __init__(
        self,
        terminal: Terminal,
        job_output: bool = True,
        talks: bool = True,
        stdout: int = 1,
        stderr: int = 2,
    ) -> None:
        self._terminal = terminal
        self._job_output = job_output
        self._talks = talks
        self._filters = {
            LogStream.STDOUT: EscapeFilter(terminal.colour) if terminal.stdout else None,
            LogStream.STDERR: EscapeFilter(terminal.colour) if terminal.stderr else None,
        }
        self._stdout, self._stderr = stdout, stderr
        self._descriptors = {LogStream.STDOUT: stdout, LogStream.STDERR: stderr}
        self._live = ""
        self._live_since = 0.0
        self._drawn = False
        self._at_line_start = True
        self._last_written = float("-inf")
        self._said_at = 0.0
        self._frame = 0
        self._muted = False

    @classmethod
    def for_scripts(cls, terminal: Terminal, stdout: int = 1, stderr: int = 2) -> "Screen":
        """Keeps standard output free for a document: the job's goes to standard error."""
        screen = cls(terminal, stdout=stdout, stderr=stderr)
        screen._descriptors = dict.fromkeys(LogStream, stderr)
        screen._filters[LogStream.STDOUT] = EscapeFilter() if terminal.stderr else None
        return screen

    def mute(self) -> None:
        """Shows nothing until `unmute`: whoever sits here looks away."""
        self.live("", 0.0)
        self._muted = True

    def unmute(self) -> None:
        """Shows again what comes from now on."""
        self._muted = False

    def say(self, text: str) -> None:
        """A line of talk."""
        if not self._talks or self._muted:
            return
        self._undraw()
        newline = "" if self._at_line_start else "\n"
        self._write_talk(f"{newline}{plain(text)}\n")
        self._at_line_start = True

    def live(self, text: str, now: float) -> None:
        """What goes on now, "" for nothing. The next tick shows it, so nothing quick flickers."""
        if text == self._live or self._muted:
            return
        self._live, self._live_since, self._said_at = text, now, now
        if text and self._drawn:
            self._draw(now)
        elif not text:
            self._undraw()

    def tick(self, now: float) -> None:
        """Keeps the live line alive; call it a few times a second."""
        if not self._live or not self._talks or self._muted:
            return
        if not self._terminal.stderr:
            if now - self._said_at >= PLAIN_EVERY_SECONDS:
                self._said_at = now
                self.say(f"{self._live} ({duration(now - self._live_since)})")
        elif self._at_line_start and now - self._last_written >= QUIET_SECONDS:
            self._draw(now)

    async def job_bytes(self, stream: LogStream, data: bytes, now: float) -> None:
        """The next bytes of a job's stream."""
        if self._muted or not self._job_output or not data:
            return
        self._undraw()
        self._last_written = self._said_at = now
        strip = self._filters[stream]
        shown = data if strip is None else strip.feed(data)
        if shown:
            await write_all(self._descriptors[stream], shown)
            if self._on_terminal(stream):
                self._at_line_start = shown.endswith(b"\n")

    async def job_ended(self) -> None:
        """Puts off what the job left on."""
        for stream, strip in self._filters.items():
            if strip is not None and (rest := strip.finish()):
                await write_all(self._descriptors[stream], rest)

    def _on_terminal(self, stream: LogStream) -> bool:
        if self._descriptors[stream] == self._stdout:
            return self._terminal.stdout
        return self._terminal.stderr

    def _draw(self, now: float) -> None:
        self._frame += 1
        spinner = SPINNER[self._frame % len(SPINNER)]
        width = (self._terminal.width or 80) - 1
        line = f"{spinner} {plain(self._live)} {duration(now - self._live_since)}"[:width]
        self._write_talk(f"\r\x1b[K{line}")
        self._drawn = True

    def _undraw(self) -> None:
        if self._drawn:
            self._write_talk("\r\x1b[K")
            self._drawn = False

    def _write_talk(self, text: str) -> None:
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._stderr, data) :]
        except OSError:
            # Nobody hears us any more: the terminal was closed. The run does not depend on it.
            self._talks = False


async def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything without ever blocking the loop: a reader that is slow is waited for."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    size = TERMINAL_PIECE_BYTES if os.isatty(descriptor) else PIECE_BYTES
    view = memoryview(data)
    while view:
        while not poll.poll(0):
            await _writable(descriptor)
        written = os.write(descriptor, view[:size])
        view = view[written:]


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)
