"""What is written where while a run goes on."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dstack_cli.output.screen import PLAIN_EVERY_SECONDS, Screen, write_all
from dstack_cli.output.terminal import Terminal, colour_wanted
from dstack_scheduler.job import LogStream

PIPES = Terminal(stdout=False, stderr=False, stdin=False, colour=False, width=None)
TERMINAL = Terminal(stdout=True, stderr=True, stdin=True, colour=True, width=80)


class Streams:
    """Standard output and error as files."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / "out", folder / "err"]
        flags = os.O_RDWR | os.O_CREAT
        self.stdout, self.stderr = (os.open(path, flags) for path in self._paths)

    def screen(self, terminal: Terminal) -> Screen:
        return Screen(terminal, stdout=self.stdout, stderr=self.stderr)

    @property
    def out(self) -> bytes:
        return self._paths[0].read_bytes()

    @property
    def err(self) -> bytes:
        return self._paths[1].read_bytes()


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[Streams]:
    caught = Streams(tmp_path)
    yield caught
    os.close(caught.stdout)
    os.close(caught.stderr)


async def test_off_a_terminal_bytes_pass_unchanged_on_their_stream(streams: Streams) -> None:
    screen = streams.screen(PIPES)
    await screen.job_bytes(LogStream.STDOUT, b"\x1b[2J\xff\x00\r", 0)
    await screen.job_bytes(LogStream.STDERR, b"err", 0)
    assert (streams.out, streams.err) == (b"\x1b[2J\xff\x00\r", b"err")


async def test_off_a_terminal_a_quiet_phase_says_a_line_now_and_then(streams: Streams) -> None:
    screen = streams.screen(PIPES)
    screen.live("train waits", 0)
    for second in range(61):
        screen.tick(second)
    assert streams.err.splitlines() == [b"train waits (30s)", b"train waits (1m00s)"]
    assert PLAIN_EVERY_SECONDS == 30


async def test_on_a_terminal_something_moves_and_goes_before_the_job_writes(
    streams: Streams,
) -> None:
    screen = streams.screen(TERMINAL)
    screen.live("train runs", 0)
    lengths: list[int] = []
    for tenth in range(0, 60, 2):
        screen.tick(tenth / 10)
        lengths.append(len(streams.err))
    moved = sum(after > before for before, after in pairwise(lengths))
    assert moved > 20
    await screen.job_bytes(LogStream.STDOUT, b"half a line", 6)
    assert streams.err.endswith(b"\r\x1b[K")
    drawn = streams.err
    screen.tick(20)
    assert streams.err == drawn, "it never draws over a half line"
    await screen.job_bytes(LogStream.STDOUT, b"\n", 21)
    screen.tick(25)
    assert len(streams.err) > len(drawn)


async def test_talk_begins_on_a_line_of_its_own_and_holds_no_control_bytes(
    streams: Streams,
) -> None:
    screen = streams.screen(TERMINAL)
    await screen.job_bytes(LogStream.STDOUT, b"half", 0)
    screen.say("a\x1b[2Jb")
    assert streams.err == "\na·[2Jb\n".encode()


async def test_a_muted_screen_shows_nothing(streams: Streams) -> None:
    screen = streams.screen(PIPES)
    screen.mute()
    screen.say("x")
    await screen.job_bytes(LogStream.STDOUT, b"x", 0)
    screen.unmute()
    screen.say("y")
    assert (streams.out, streams.err) == (b"", b"y\n")


async def test_for_scripts_all_of_the_job_goes_to_standard_error(streams: Streams) -> None:
    screen = Screen.for_scripts(PIPES, streams.stdout, streams.stderr)
    await screen.job_bytes(LogStream.STDOUT, b"out", 0)
    assert (streams.out, streams.err) == (b"", b"out")


async def test_a_slow_reader_never_blocks_the_loop() -> None:
    reading, writing = os.pipe()
    goes_on = threading.Event()

    async def tick() -> None:
        for _ in range(20):
            await asyncio.sleep(0.005)
        goes_on.set()

    def read_slowly() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            goes_on.wait(10)
            while pipe.read(65536):
                pass

    reader = threading.Thread(target=read_slowly)
    reader.start()
    ticking = asyncio.ensure_future(tick())
    await write_all(writing, bytes(1_000_000))
    assert goes_on.is_set()
    os.close(writing)
    await ticking
    reader.join()


@pytest.mark.parametrize(
    ("environment", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_colours_follow_the_environment(
    environment: dict[str, str], terminal: bool, wanted: bool
) -> None:
    assert colour_wanted(environment, terminal) is wanted


def test_a_terminal_that_was_closed_stops_the_talk_and_nothing_else() -> None:
    code = (
        "import os\n"
        "from dstack_cli.output.screen import Screen\n"
        "from dstack_cli.output.terminal import Terminal\n"
        "os.close(2)\n"
        "Screen(Terminal(False, False, False, False, None)).say('x')\n"
        "print('went on')\n"
    )
    ended = subprocess.run(
        (sys.executable, "-c", code),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"went on\n"
