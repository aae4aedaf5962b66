"""Asks a person before something is lost; whoever is no terminal is never asked."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager

from dstack_cli.misused import Misused


def agreed(question: str) -> bool:
    """Whether somebody said yes; nobody did where nobody can be asked."""
    if not sys.stdin.isatty():
        return False
    with _interruptible():
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def _interruptible() -> Generator[None]:
    """Ctrl-C ends the wait for an answer, also within a loop, which only notes the first one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def must_agree(question: str, yes: bool, again: str) -> bool:
    """Whether to go on.

    Args:
        yes: Said beforehand.
        again: The same command with the flag that says it.

    Raises:
        Misused: It was not said, and nobody is there to be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Misused("Nobody is there to answer.", question, again, code="not-agreed")
    return agreed(question)


def require_agreed(question: str, yes: bool, again: str) -> None:
    """The same for what is done whole or not at all. Raises Misused also if somebody said no."""
    if not must_agree(question, yes, again):
        raise Misused("Nothing was changed.", "The answer was no.", code="not-agreed")
