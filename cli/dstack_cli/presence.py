"""Whether somebody stays with a run that this command drives, and what they see of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from dstack_cli.attended import Attendance
from dstack_cli.ending import end_document, submitted_document
from dstack_cli.output.forms import chosen
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.reach import Reach
from dstack_cli.submitting import DrivenWork
from dstack_cli.watching import DETACH_HINT, Watching
from dstack_scheduler.progress import Watcher


class Presence(Protocol):
    """What somebody said about it."""

    @property
    def detach(self) -> bool: ...

    @property
    def as_json(self) -> bool: ...

    @property
    def quiet(self) -> bool: ...

    @property
    def no_open(self) -> bool: ...


def screen_of(terminal: Terminal, presence: Presence) -> Screen:
    """Where the run is shown."""
    if presence.as_json and not presence.detach:
        return Screen.for_scripts(terminal)
    return Screen(terminal, job_output=not presence.detach, talks=not presence.quiet)


def detach_hint(terminal: Terminal, presence: Presence) -> str:
    """How to leave, for whoever stays and can."""
    return DETACH_HINT if terminal.stdin and terminal.stderr and not presence.detach else ""


@asynccontextmanager
async def with_apps(
    reach: Reach, has_apps: bool, presence: Presence, screen: Screen, watching: Watching
) -> AsyncGenerator[Watcher]:
    """Who watches the run: with its apps in reach, if it has any and somebody stays."""
    if presence.detach or not has_apps:
        yield watching
        return
    from dstack_cli.forwarding.watching import watched_apps  # most runs have no apps

    terminal = Terminal.of_process()
    opens = terminal.stdin and terminal.stderr and not presence.no_open
    async with watched_apps(reach, watching.name, watching, screen.say, opens) as watcher:
        yield watcher


async def attend(
    driven: DrivenWork, watching: Watching, screen: Screen, terminal: Terminal, presence: Presence
) -> int:
    """Stays until the run ended or was left; returns the exit code."""
    code = await Attendance(driven, screen, terminal).attend()
    if presence.as_json and watching.end is not None:
        chosen(as_json=True).document(end_document(driven.name, watching.end))
    elif presence.as_json:
        chosen(as_json=True).document(submitted_document(driven.name, driven.run_id))
    return code


async def submit(driven: DrivenWork, has_apps: bool, screen: Screen, presence: Presence) -> int:
    """Leaves once the run goes on alone; returns the exit code."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(driven.run())
        await driven.settled.wait()
        if not running.done():
            await driven.leave()
    screen.live("", 0.0)
    name = driven.name
    chosen(presence.as_json, presence.quiet).document(submitted_document(name, driven.run_id))
    screen.say(f"  follow: dstack logs -f {name}      stop: dstack stop {name}")
    if has_apps:
        screen.say(f"  open its apps: dstack app {name}")
    if driven.caveat:
        screen.say(f"  {driven.caveat}")
    return 0
