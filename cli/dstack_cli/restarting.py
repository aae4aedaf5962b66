"""Starts a run that ended again, from the same code and with what it had kept."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dstack_cli.again import Anew, Choice, again
from dstack_cli.attended import Attendance
from dstack_cli.choosing import Meant, meant
from dstack_cli.ending import end_document, submitted_document
from dstack_cli.naming import order_id, order_name, owner
from dstack_cli.orders import Ordered, ordered
from dstack_cli.output.forms import chosen
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.removing import goes_on
from dstack_cli.submitting import DrivenWork
from dstack_cli.watching import DETACH_HINT, Watching
from dstack_mesh.faults import MeshError, Missing, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import Input, Source
from dstack_scheduler.submission import Submission


@frozen
class Wish:
    """What is to start again, and how.

    Attributes:
        clear: From nothing: what it kept is not put back.
    """

    run: str
    workflow: str = ""
    clear: bool = False
    detach: bool = False
    as_json: bool = False
    quiet: bool = False


def restart(home: Home, wish: Wish) -> int:
    """Starts it; returns the exit code of the command."""

    async def work() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            found = meant(wish.run, await reach.runs(), wish.workflow)
            submission = await _submission(reach, found, wish)
            terminal = Terminal.of_process()
            screen = _screen(terminal, wish)
            watching = _watching(screen, terminal, submission, wish)
            watching.notes = [f"  {_from_where(found, submission, wish)}"]
            driven = DrivenWork(reach, submission, "", watching)
            if wish.detach:
                return await _submit(driven, screen, wish)
            code = await Attendance(driven, screen, terminal).attend()
            if wish.as_json and watching.end is not None:
                chosen(as_json=True).document(end_document(driven.name, watching.end))
            return code

    return carry_out(work())


async def _submission(reach: Reach, found: Meant, wish: Wish) -> Submission:
    record, picture = found.picture.record, found.picture
    if picture.heard and not picture.status.ended:
        raise goes_on(record.run_name, picture.status.value)
    made = ordered(reach.home, record.run_id)
    if made is None:
        raise Missing(
            f"What {record.run_name} was made of is not known here.",
            f"It is kept in the home that submitted it, that of {record.owner or 'somebody else'}.",
            f"dstack run {record.target}",
            "not-submitted-here",
        )
    anew = Anew(order_id(), order_name(reach.home), owner(), datetime.now(UTC))
    new, jobs = again(made, record, Choice(found.job, wish.clear), anew)
    await _bring_code(reach, made, found)
    dialled = [await _dialled(reach, job) for job in jobs]
    secrets = _secrets(reach.home, dialled, wish.detach)
    return Submission(new, tuple(dialled), secrets=secrets)


async def _bring_code(reach: Reach, made: Ordered, found: Meant) -> None:
    """Has the code in our store, from any agent that ran it. Raises Unreachable."""
    digest = made.jobs[-1].spec.code_digest
    if not await asyncio.to_thread(reach.store.missing_manifest, digest):
        return
    having = [job.agent_id for job in found.picture.record.jobs if job.agent_id is not None]
    for peer in [*having, *found.picture.tellers]:
        trees = await reach.transfer(peer)
        with suppress(MeshError):
            if trees is not None:
                await trees.fetch_tree(digest)
                return
    raise Unreachable(
        f"The code of {found.picture.record.run_name} is not here any more.",
        f"It is {_hex(digest)}, and no agent that has it answers.",
        f"dstack run {made.record.target}",
        "no-source",
    )


async def _dialled(reach: Reach, job: DrivenJob) -> DrivenJob:
    """The job with the addresses that the sources of its inputs have now."""
    inputs = [await _reached(reach, each) for each in job.spec.inputs]
    return replace(job, spec=replace(job.spec, inputs=tuple(inputs)))


async def _reached(reach: Reach, what: Input) -> Input:
    sources: list[Source] = []
    for source in what.sources:
        agent = await reach.find(source.peer_id)
        addresses = agent.card.addresses if agent is not None else source.addresses
        sources.append(replace(source, addresses=addresses))
    return replace(what, sources=tuple(sources))


def _secrets(home: Home, jobs: list[DrivenJob], detach: bool) -> dict[str, str]:
    needed = sorted({name for job in jobs for name in job.spec.secrets_needed})
    if not needed:
        return {}
    from dstack_cli.keeping_secrets import kept_values, need_you  # most runs need none

    late = [job.spec.workflow for job in jobs if job.spec.secrets_needed and job.after]
    if detach and late:
        raise need_you(late)
    return kept_values(home, Path.cwd(), needed)


def _from_where(found: Meant, submission: Submission, wish: Wish) -> str:
    name = found.picture.record.run_name
    back = {one.path for job in submission.jobs for one in job.spec.inputs if name in one.origin}
    if wish.clear or not back:
        return f"{name} again, from nothing"
    return f"{name} again, with what it kept: {', '.join(sorted(back))}"


def _watching(screen: Screen, terminal: Terminal, submission: Submission, wish: Wish) -> Watching:
    hint = DETACH_HINT if terminal.stdin and terminal.stderr and not wish.detach else ""
    workflows = [job.spec.workflow or job.spec.provider for job in submission.jobs]
    now = asyncio.get_running_loop().time
    return Watching(screen, submission.record.run_name, workflows, now, hint)


def _screen(terminal: Terminal, wish: Wish) -> Screen:
    if wish.as_json and not wish.detach:
        return Screen.for_scripts(terminal)
    return Screen(terminal, job_output=not wish.detach, talks=not wish.quiet)


async def _submit(driven: DrivenWork, screen: Screen, wish: Wish) -> int:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(driven.run())
        await driven.settled.wait()
        if not running.done():
            await driven.leave()
    screen.live("", 0.0)
    document = submitted_document(driven.name, driven.run_id)
    chosen(wish.as_json, wish.quiet).document(document)
    return 0


def _hex(digest: Digest) -> str:
    return digest.hex()[:12]
