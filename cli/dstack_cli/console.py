"""The person's terminal while another one is behind it: every key goes there as it is."""

import os
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

from dstack_scheduler.errand import Window


@contextmanager
def raw(descriptor: int) -> Generator[None]:
    """Has a terminal hand over each key, until the block ends; nothing else changes it for good."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def window_of(descriptor: int) -> Window:
    """How large a terminal is."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return Window()
    return Window(size.lines, size.columns)


def is_terminal(descriptor: int) -> bool:
    """Whether a standard stream of this process is one; a stream that is closed is none."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
