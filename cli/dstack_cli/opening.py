"""Leads to the apps of a run that somebody else follows, or nobody, until it ended."""

import asyncio
import signal

from dstack_cli.choosing import meant
from dstack_cli.forwarding.links import Link
from dstack_cli.forwarding.watching import AppsWatcher, described, watched_apps
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_mesh.faults import Refused, Unreachable
from dstack_mesh.home import Home
from dstack_scheduler.job import JobKey, JobRecord, JobState, RunRecord
from dstack_scheduler.progress import Awarded, Progress

LOOK_SECONDS = 1.0
SCHEMA = "dstack.app/v1"


class _Nobody:
    """Watches nothing."""

    async def saw(self, event: Progress) -> None:
        pass


def open_apps(home: Home, run: str, workflow: str, no_open: bool, as_json: bool) -> int:
    """Leads to the apps of a run, or of one job of it; returns the exit code."""

    async def work() -> int:
        for number in (signal.SIGHUP, signal.SIGTERM):  # what leads there is removed, as by Ctrl-C
            asyncio.get_running_loop().add_signal_handler(
                number, signal.raise_signal, signal.SIGINT
            )
        terminal = Terminal.of_process()
        screen, output = Screen(terminal), chosen(as_json)
        async with reaching(home, Private.IF_HISTORY) as reach:
            found = meant(run, await reach.runs(), workflow)
            picture, only = found.picture, found.job
            opens = terminal.stdin and terminal.stderr and not no_open

            def show(link: Link) -> None:
                output.document(document(picture.record.run_name, link))
                screen.say("  Ctrl-C ends the way there, not the run.")

            name = picture.record.run_name
            nobody, say = _Nobody(), screen.say
            async with watched_apps(reach, name, nobody, say, opens, show, only) as apps:
                return await _lead(reach, picture, apps, only)

    return carry_out(work())


def document(run: str, link: Link) -> Document:
    """An app that answers."""
    fields = {
        "schema": SCHEMA,
        "run": run,
        "app": link.app.name,
        "url": link.url,
        "port": link.port,
        "local_port": link.local,
        "command": link.command,
    }
    return Document(fields=fields, text="\n".join(described(link)), name=link.url)


async def _lead(reach: Reach, picture: RunPicture, apps: AppsWatcher, only: int | None) -> int:
    """Until the run ended.

    Raises:
        MeshError: Its agent lets nobody in, or nothing of the run has an app any more.
    """
    asked: set[JobKey] = set()
    found = False
    while True:
        for job in picture.record.jobs:
            running = job.state.state is JobState.RUNNING and only in (None, job.key.job)
            if running and job.key not in asked and await _led(reach, job, apps):
                found = True
            if running:
                asked.add(job.key)
        if is_over(picture.record) or (not found and _all_run(picture.record)):
            break
        await asyncio.sleep(LOOK_SECONDS)
        picture = await reach.again(picture)
    if not found:
        raise Refused(
            f"Nothing of {picture.record.run_name} can be opened.",
            "It does not run, or it has no apps.",
            "dstack ps",
            "shut",
        )
    return 0


async def _led(reach: Reach, job: JobRecord, apps: AppsWatcher) -> bool:
    """Whether a job that runs has apps, to which it is led then."""
    agent = await reach.find(job.agent_id) if job.agent_id is not None else None
    client = await reach.tunnel(agent.card.peer_id) if agent is not None else None
    if agent is None or client is None:
        raise Unreachable(f"{job.agent_name or job.agent_id} does not answer.", code="agent-away")
    if not (await client.apps(job.key)).apps:
        return False
    await apps.saw(Awarded(job.key.job, job.key.attempt, agent.card, agent.local, (), ""))
    await apps.saw(job.state)
    return True


def is_over(record: RunRecord) -> bool:
    """Whether nothing of a run goes on or is still to come."""
    states = [job.state.state for job in record.jobs]
    failed = any(state.ended and state is not JobState.DONE for state in states)
    return all(state.ended for state in states) and (failed or len(states) == record.job_count)


def _all_run(record: RunRecord) -> bool:
    """Whether the last job of a run runs."""
    last = record.jobs[-1:]
    return len(record.jobs) == record.job_count and last[0].state.state is JobState.RUNNING
