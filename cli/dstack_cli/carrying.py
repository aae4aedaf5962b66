"""Carries a run out in front of somebody, or submits it and leaves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dstack_cli import embedded, exit_codes
from dstack_cli.code import Code, capture
from dstack_cli.ending import end_document, submitted_document
from dstack_cli.output.forms import chosen
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.presence import attend, detach_hint, screen_of, submit, with_apps
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.reusing import Taken, with_earlier_results
from dstack_cli.run_words import Asked
from dstack_cli.submitting import DrivenWork, Order, give_tag, submission
from dstack_cli.watching import Watching, workflows_of
from dstack_mesh.home import Home
from dstack_scheduler.plan import Plan
from dstack_scheduler.progress import Watcher

if TYPE_CHECKING:
    from dstack_scheduler.reuse import Hit

NOTES = 3
"""Files that are named; of the others the number is told."""


def carry(home: Home, order: Order, asked: Asked, starting: embedded.Starting | None) -> int:
    """Carries a run out; returns the exit code of the command."""

    async def work() -> int:
        terminal = Terminal.of_process()
        screen = screen_of(terminal, asked)
        now = asyncio.get_running_loop().time
        hint = detach_hint(terminal, asked)
        watching = Watching(screen, order.run_name, workflows_of(order.plan), now, hint)
        screen.live("reading the files of this folder", now())
        async with reaching(home, Private.NEVER, starting) as reach:
            taken = await _taken(reach, order, screen)
            for line in taken.lines:
                screen.say(line)
            if taken.whole is not None:
                return await _show_earlier(reach, taken.whole, order, screen, asked)
            watching.rename(workflows_of(taken.plan))
            return await _carry(reach, order, taken, asked, watching, screen, terminal)

    return carry_out(work())


async def _carry(
    reach: Reach,
    order: Order,
    taken: Taken,
    asked: Asked,
    watching: Watching,
    screen: Screen,
    terminal: Terminal,
) -> int:
    """Carries what is left of a run out; returns the exit code of the command."""
    watching.notes = notes_on(order.code.result())
    has_apps = _has_apps(taken.plan)
    async with (
        with_apps(reach, has_apps, asked, screen, watching) as apps,
        _with_edits(reach, order, taken.plan, asked, screen, apps) as watcher,
    ):
        driven = DrivenWork(reach, taken.submission, order.tag, watcher)
        screen.live("asking agents", asyncio.get_running_loop().time())
        if asked.detach:
            code = await submit(driven, has_apps, screen, asked)
        else:
            code = await attend(driven, watching, screen, terminal, asked)
        if asked.push_to and driven.accepted:
            return await _push(reach, driven, watching, screen, asked, code)
        return code


@asynccontextmanager
async def _with_edits(
    reach: Reach, order: Order, plan: Plan, asked: Asked, screen: Screen, watcher: Watcher
) -> AsyncGenerator[Watcher]:
    """Who watches the run: with what is edited laid into its jobs, if that is wanted."""
    if not asked.reload:
        yield watcher
        return
    from dstack_cli.reloading import Reloading, following_edits  # most runs go on as they began

    folder, began = Path.cwd(), order.code.result().digest
    look = partial(capture, folder, reach.store, reach.home)
    names = workflows_of(plan)
    async with following_edits(Reloading(reach, watcher, look, began, names, screen.say)) as edits:
        yield edits


def _has_apps(plan: Plan) -> bool:
    return any(job.apps for job in plan.jobs)


async def _taken(reach: Reach, order: Order, screen: Screen) -> Taken:
    try:
        elsewhere = reach.elsewhere if reach.has_elsewhere else None
        return await with_earlier_results(reach, order, await submission(order), elsewhere)
    finally:
        screen.live("", 0.0)


async def _show_earlier(
    reach: Reach, hit: "Hit", order: Order, screen: Screen, asked: Asked
) -> int:
    """Ends as the earlier run did whose result stands in for the whole run."""
    from dstack_cli.reusing import kept_line

    record = hit.run
    screen.say(kept_line(hit))
    if order.tag:
        await give_tag(reach, record, order.tag)
    if asked.detach:
        document = submitted_document(record.run_name, record.run_id)
        chosen(asked.as_json, asked.quiet).document(document)
    elif asked.as_json:
        chosen(as_json=True).document(end_document(record.run_name, hit.job.state))
    if asked.push_to:
        from dstack_cli.remotes.pushing import push_ended

        pushed = await push_ended(reach, record.run_id, asked.push_to, screen)
        return 0 if pushed else exit_codes.OURS
    return 0


def notes_on(code: Code) -> list[str]:
    """What of the folder does not travel, or may have travelled half-changed."""
    lines = [f"  not sent: {one.path} ({one.reason})" for one in code.skipped[:NOTES]]
    if len(code.skipped) > NOTES:
        lines.append(f"  not sent: {len(code.skipped) - NOTES} more")
    lines += [f"  changed while it was read: {path}" for path in code.changed[:NOTES]]
    return lines


async def _push(
    reach: Reach, driven: DrivenWork, watching: Watching, screen: Screen, asked: Asked, code: int
) -> int:
    """Pushes a run that ended, or remembers that it is to be pushed; returns the exit code."""
    from dstack_cli.remotes.pushing import push_ended
    from dstack_cli.remotes.waiting import ToPush, note

    note(reach.home, ToPush(driven.run_id, asked.push_to))
    if watching.end is None:
        screen.say(f"  once it has ended, to {asked.push_to}: dstack push")
        return code
    pushed = await push_ended(reach, driven.run_id, asked.push_to, screen)
    return code if pushed or code else exit_codes.OURS
