"""A terminal comes back as it was, whatever happened meanwhile."""

import os
import pty
import select
import signal
import termios
from collections.abc import Iterator

import pytest

from dstack_cli.output.full_screen import ENTER, LEAVE, FullScreen


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """Where somebody sits, and the command's end of it."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def shown(ours: int) -> str:
    """What was drawn, until the terminal was left; the kernel passes it on a moment later."""
    text = ""
    while LEAVE not in text and select.select([ours], [], [], 10)[0]:
        text += os.read(ours, 65536).decode()
    return text


def echoes(theirs: int) -> bool:
    return bool(termios.tcgetattr(theirs)[3] & termios.ECHO)


async def test_it_comes_back_after_an_error(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    before = termios.tcgetattr(theirs)
    with pytest.raises(RuntimeError), FullScreen(theirs, theirs).open():
        assert not echoes(theirs)
        raise RuntimeError
    assert termios.tcgetattr(theirs) == before
    assert shown(ours) == ENTER + LEAVE


@pytest.mark.parametrize("key", [b"q", b"xQ", b"\x04"])
async def test_a_key_ends_it(ends: tuple[int, int], key: bytes) -> None:
    ours, theirs = ends
    screen = FullScreen(theirs, theirs)
    with screen.open():
        os.write(ours, b"x")
        os.write(ours, key)
        await screen.over.wait()


async def test_signals_end_it_and_say_that_the_window_changed(ends: tuple[int, int]) -> None:
    _, theirs = ends
    screen = FullScreen(theirs, theirs)
    with screen.open():
        os.kill(os.getpid(), signal.SIGWINCH)
        await screen.resized.wait()
        assert not screen.over.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        await screen.over.wait()


async def test_nothing_that_a_name_holds_reaches_the_terminal(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    screen = FullScreen(None, theirs)
    with screen.open():
        screen.show(["a\x1b]0;owned\x07b", "c"])
    text = shown(ours).removeprefix(ENTER).removesuffix(LEAVE)
    assert "owned\x07" not in text and "\x1b]" not in text
    assert text.endswith("\x1b[K\r\nc\x1b[K\x1b[J")


async def test_whoever_closed_the_window_is_not_drawn_for() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    screen = FullScreen(None, writing)
    with screen.open():
        assert screen.over.is_set()
    os.close(writing)
