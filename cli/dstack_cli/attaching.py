"""Comes back to a run that others drive."""

import asyncio

from dstack_cli.attended import Attendance
from dstack_cli.ending import end_document
from dstack_cli.following import RunFollower
from dstack_cli.forwarding.watching import watched_apps
from dstack_cli.output.forms import chosen
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, chosen_run, reaching
from dstack_cli.stopping import ask_to_stop
from dstack_cli.watching import DETACH_HINT, Watching
from dstack_mesh.home import Home
from dstack_scheduler.job import StateChange
from dstack_scheduler.progress import Watcher


class FollowedWork:
    """A run that others drive; implements `attended.Work`."""

    accepted = True
    why_stay = ""
    caveat = ""

    def __init__(self, reach: Reach, picture: RunPicture, watcher: Watcher) -> None:
        self._reach = reach
        self._picture = picture
        self._follower = RunFollower(reach, picture, watcher)

    @property
    def name(self) -> str:
        return self._picture.record.run_name

    async def run(self) -> StateChange:
        return await self._follower.run()

    async def stop(self, abort: bool) -> None:
        await ask_to_stop(self._reach, await self._reach.again(self._picture), abort)

    async def leave(self) -> None:
        """Nothing depends on us."""


def attach_to(home: Home, run: str, as_json: bool, no_open: bool) -> int:
    """Follows a run in front of somebody; returns the exit code."""

    async def work() -> int:
        terminal = Terminal.of_process()
        screen = Screen.for_scripts(terminal) if as_json else Screen(terminal)
        now = asyncio.get_running_loop().time
        hint = DETACH_HINT if terminal.stdin and terminal.stderr else ""
        async with reaching(home, Private.IF_HISTORY) as reach:
            picture = chosen_run(run, await reach.runs())
            record = picture.record
            workflows = [job.workflow or job.provider for job in record.jobs]
            watching = Watching(screen, record.run_name, workflows, now, hint)
            opens = bool(hint) and not no_open
            name, say = record.run_name, screen.say
            async with watched_apps(reach, name, watching, say, opens) as watcher:
                followed = FollowedWork(reach, picture, watcher)
                code = await Attendance(followed, screen, terminal).attend()
            if as_json and watching.end is not None:
                chosen(as_json=True).document(end_document(record.run_name, watching.end))
            return code

    return carry_out(work())
