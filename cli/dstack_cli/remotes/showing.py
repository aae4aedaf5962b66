"""Shows how far a transfer is while it goes on: a line that lives, or one now and then."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dstack_cli.output.moving import Moved, Speed, moving_line
from dstack_cli.output.screen import PLAIN_EVERY_SECONDS, Screen
from dstack_cli.output.terminal import Terminal
from dstack_mesh.remotes.tally import Tally

TICK_SECONDS = 0.2


class Showing:
    """What is moving now.

    Attributes:
        doing: In words, as "pushing model".
        tally: Counted by whoever moves it.
    """

    def __init__(self, screen: Screen, terminal: Terminal) -> None:
        self._screen = screen
        self._draws = terminal.stderr
        self._speed = Speed()
        self.doing = ""
        self.tally = Tally()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._screen.say(line)

    @property
    def line(self) -> str:
        """What goes on, as one line."""
        tally, now = self.tally, asyncio.get_running_loop().time()
        seen = Moved(
            tally.total_bytes, tally.there_bytes, tally.moved_bytes, tally.files, tally.looking
        )
        speed = self._speed.at(now, seen.moved)
        return moving_line(self.doing, seen, speed) if seen.total else self.doing

    @asynccontextmanager
    async def going(self) -> AsyncGenerator[None]:
        """Shows it while the block runs."""
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            self._screen.live("", 0.0)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        said_at = loop.time()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            line, now = self.line, loop.time()
            if self._draws:
                self._screen.live(line, now)
                self._screen.tick(now)
            elif now - said_at >= PLAIN_EVERY_SECONDS:
                self._screen.say(line)
                said_at = now
