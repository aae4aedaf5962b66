"""What a person sees of the steps: a line that moves, and one that stays for each that is done."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.output.words import duration

TICK_SECONDS = 0.2
TITLE_WIDTH = 8


class Step:
    """A step that goes on.

    Attributes:
        done: What is told of it once it is done.
    """

    def __init__(self, screen: Screen, title: str) -> None:
        self._screen = screen
        self._title = title
        self.done = ""

    def now(self, text: str) -> None:
        """What goes on."""
        self._screen.live(f"{self._title:<{TITLE_WIDTH}}{text}", time.monotonic())


class Steps:
    """The steps of one command. `doing` is what went on last, for when it is broken off."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.doing = ""

    def say(self, line: str) -> None:
        """Something worth knowing."""
        self._screen.say(line)

    @asynccontextmanager
    async def step(self, title: str, doing: str) -> AsyncGenerator[Step]:
        """A step; what its `done` says stays on the screen, with the time it took."""
        began = time.monotonic()
        step = Step(self._screen, title)
        self.doing = doing
        step.now(doing)
        try:
            yield step
        finally:
            self._screen.live("", 0.0)
        took = duration(time.monotonic() - began)
        self._screen.say(f"{title:<{TITLE_WIDTH}}{step.done or doing}  ({took})")


@asynccontextmanager
async def showing_steps() -> AsyncGenerator[Steps]:
    """Steps on the streams of this process, shown while the block runs."""
    screen = Screen(Terminal.of_process())
    ticking = asyncio.ensure_future(_tick(screen))
    try:
        yield Steps(screen)
    finally:
        ticking.cancel()


async def _tick(screen: Screen) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        screen.tick(time.monotonic())
