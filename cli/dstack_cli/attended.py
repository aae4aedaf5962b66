"""A run with somebody in front of it: shows it, and obeys Ctrl-C.

On a terminal the first press says at once that it detaches and silences the output; for two more
seconds the run is still ours, so that a second press can stop it and a third abort it. Then it is
let go, handed over if something of it is left to drive. Enter ends the two seconds.
"""

import asyncio
import signal
import sys
from typing import Protocol

from dstack_cli import exit_codes
from dstack_cli.interrupts import AGAIN_SECONDS, Interrupts, Wish
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_mesh.faults import MeshError
from dstack_scheduler.job import StateChange

TICK_SECONDS = 0.2
CANCEL_SECONDS = 3.0
LEAVE_SECONDS = 5.0
"""How long handing over may take."""


class Work(Protocol):
    """A run that is carried out or followed."""

    @property
    def name(self) -> str: ...

    @property
    def accepted(self) -> bool:
        """Whether an agent has it."""
        ...

    @property
    def why_stay(self) -> str:
        """Why it cannot go on without us; empty if it can."""
        ...

    @property
    def caveat(self) -> str:
        """What is not done any more once it goes on without us; empty for nothing."""
        ...

    async def run(self) -> StateChange:
        """Goes on to its end."""
        ...

    async def stop(self, abort: bool) -> None:
        """Asks for its end; `run` returns once it came."""
        ...

    async def leave(self) -> None:
        """Lets it go on without us."""
        ...


class Attendance:
    """One run in front of somebody."""

    def __init__(self, work: Work, screen: Screen, terminal: Terminal) -> None:
        self._work = work
        self._screen = screen
        self._terminal = terminal
        self._wishes: asyncio.Queue[Wish] = asyncio.Queue()
        self._detaching = False

    async def attend(self) -> int:
        """Stays until the run ended or was left; returns the exit code."""
        async with asyncio.TaskGroup() as tasks:
            self._listen(asyncio.get_running_loop())
            ticking = tasks.create_task(self._tick())
            running = tasks.create_task(self._work.run())
            try:
                return await self._until_over(running)
            except BrokenPipeError:
                await self._leave()
                raise
            finally:
                self._screen.live("", 0.0)
                ticking.cancel()
                running.cancel()

    async def _until_over(self, running: "asyncio.Task[StateChange]") -> int:
        while True:
            wish = await self._next_wish(running)
            if wish is None and self._detaching and not running.done():
                await self._leave()
                return exit_codes.DETACHED
            if wish is None:
                end = running.result()
                return exit_codes.DETACHED if self._detaching else exit_codes.of_end(end)
            if wish is Wish.CANCEL:
                return await self._cancel(running)
            await self._obey(wish)

    async def _next_wish(self, running: "asyncio.Task[StateChange]") -> Wish | None:
        """The next wish; None if the run ended, or if the time to press again is over."""
        wished = asyncio.ensure_future(self._wishes.get())
        typed = asyncio.get_running_loop().create_future()
        if self._detaching:
            self._watch_keys(typed)
        try:
            waited = AGAIN_SECONDS if self._detaching else None
            await asyncio.wait(
                {running, wished, typed}, timeout=waited, return_when=asyncio.FIRST_COMPLETED
            )
            return wished.result() if wished.done() else None
        finally:
            wished.cancel()
            typed.cancel()
            if self._detaching:
                asyncio.get_running_loop().remove_reader(sys.stdin.fileno())

    async def _obey(self, wish: Wish) -> None:
        name = self._work.name
        match wish:
            case Wish.DETACH if self._work.why_stay:
                self._screen.say(f"\nStill attached: {self._work.why_stay}")
                self._screen.say(f"  Ctrl-C again stops {name}")
            case Wish.DETACH:
                self._screen.say(f"\nDetached. {name} goes on.  (Ctrl-C again stops it)")
                self._screen.say(f"  back: dstack attach {name}      stop: dstack stop {name}")
                if self._work.caveat:
                    self._screen.say(f"  {self._work.caveat}")
                self._screen.mute()
                self._detaching = True
            case Wish.STOP | Wish.ABORT:
                self._detaching = False
                self._screen.unmute()
                abort = wish is Wish.ABORT
                doing = "Aborting" if abort else "Stopping"
                self._screen.say(f"\n{doing} {name} …" + ("" if abort else "  (again: abort)"))
                await self._work.stop(abort)
            case Wish.CANCEL:
                raise AssertionError(wish)

    async def _cancel(self, running: "asyncio.Task[StateChange]") -> int:
        self._screen.say("")
        await self._work.stop(abort=True)
        await asyncio.wait({running}, timeout=CANCEL_SECONDS)
        self._screen.say("Cancelled. Nothing was started.")
        return exit_codes.INTERRUPTED

    async def _leave(self) -> None:
        self._screen.unmute()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._work.leave()
        except (MeshError, TimeoutError) as error:
            self._screen.say(f"What is left of {self._work.name} was not handed over: {error}")

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._screen.tick(loop.time())

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        pressed = Interrupts(on_terminal=self._terminal.stdin and self._terminal.stderr)
        ended = Interrupts(on_terminal=False)
        for number, interrupts in ((signal.SIGINT, pressed), (signal.SIGTERM, ended)):
            loop.add_signal_handler(number, self._hear, loop, interrupts)
        loop.add_signal_handler(signal.SIGHUP, self._wishes.put_nowait, Wish.DETACH)

    def _hear(self, loop: asyncio.AbstractEventLoop, interrupts: Interrupts) -> None:
        self._wishes.put_nowait(interrupts.pressed(loop.time(), self._work.accepted))

    def _watch_keys(self, typed: "asyncio.Future[None]") -> None:
        def wake() -> None:
            if not typed.done():
                typed.set_result(None)

        try:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), wake)
        except (OSError, ValueError):
            return
