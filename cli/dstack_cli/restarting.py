"""Starts a run that ended again, from the same code and with what it had kept."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dstack_cli.again import Anew, Choice, again
from dstack_cli.choosing import Meant, meant
from dstack_cli.here import repo_of
from dstack_cli.misused import Misused
from dstack_cli.naming import order_id, order_name, owner
from dstack_cli.orders import Ordered, ordered
from dstack_cli.output.screen import Screen
from dstack_cli.output.terminal import Terminal
from dstack_cli.presence import attend, detach_hint, screen_of, submit, with_apps
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.removing import goes_on
from dstack_cli.submitting import DrivenWork
from dstack_cli.watching import Watching
from dstack_mesh.faults import MeshError, Missing, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import Input, JobSpec, RunRecord, Source
from dstack_scheduler.submission import Submission


@frozen
class Wish:
    """What is to start again, and how.

    Attributes:
        clear: From nothing: what it kept is not put back.
        no_open: Links of apps are printed only.
    """

    run: str
    workflow: str = ""
    clear: bool = False
    detach: bool = False
    as_json: bool = False
    quiet: bool = False
    no_open: bool = False


def restart(home: Home, wish: Wish) -> int:
    """Starts it; returns the exit code of the command."""

    async def work() -> int:
        async with reaching(home, Private.IF_HISTORY) as reach:
            found = meant(wish.run, await reach.runs(), wish.workflow)
            submission = await _submission(reach, found, wish)
            terminal = Terminal.of_process()
            screen = screen_of(terminal, wish)
            watching = _watching(screen, terminal, submission, wish)
            watching.notes = [f"  {_from_where(found, submission, wish)}"]
            if not found.picture.ours:
                watching.notes.append(f"  as its submitter signed it: {found.picture.record.owner}")
            has_apps = any(job.spec.apps for job in submission.jobs)
            async with with_apps(reach, has_apps, wish, screen, watching) as watcher:
                driven = DrivenWork(reach, submission, "", watcher)
                if wish.detach:
                    return await submit(driven, has_apps, screen, wish)
                return await attend(driven, watching, screen, terminal, wish)

    return carry_out(work())


async def _submission(reach: Reach, found: Meant, wish: Wish) -> Submission:
    record, picture = found.picture.record, found.picture
    if picture.heard and not picture.status.ended:
        raise goes_on(record.run_name, picture.status.value, "started again")
    made = ordered(reach.home, record.run_id)
    ours = made is not None
    if made is None:
        from dstack_cli.attested import attested  # most runs that start again are from here

        made = await attested(reach, picture, await reach.runs())
    if made is None:
        raise _not_known(record, "Not all of it is told and proved by agents that answer.")
    anew = Anew(order_id(reach.home), order_name(reach.home), owner(), datetime.now(UTC))
    new, jobs = again(made, record, Choice(found.job, wish.clear), anew)
    if not ours and len({_first_node(job.spec) for job in jobs}) > 1:
        raise _not_known(record, "In which order its jobs run is known there alone.")
    await _bring_code(reach, made, found)
    dialled = [await _dialled(reach, job) for job in jobs]
    secrets = _secrets(reach.home, record, dialled, wish.detach)
    return Submission(new, tuple(dialled), secrets=secrets)


def _not_known(record: RunRecord, why: str) -> Missing:
    home = f"the home that submitted it, that of {record.owner or 'somebody else'}"
    return Missing(
        f"What {record.run_name} was made of is not known here.",
        f"It is kept in {home}. {why}",
        f"dstack restart {record.run_name} WORKFLOW   (one job of it)\ndstack run {record.target}",
        "not-submitted-here",
    )


def _first_node(spec: JobSpec) -> int:
    """The job that stands for those that start together with it."""
    return spec.node.indexes(spec.key.job)[0] if spec.node is not None else spec.key.job


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


def _secrets(home: Home, record: RunRecord, jobs: list[DrivenJob], detach: bool) -> dict[str, str]:
    """The values that the jobs take along, of the repository that they are from. Raises Misused."""
    needed = sorted({name for job in jobs for name in job.spec.secrets_needed})
    if not needed:
        return {}
    here, repo = repo_of(Path.cwd()), record.revision.repo
    if here != repo:
        raise Misused(
            f"{record.run_name} takes secrets of {repo or 'no repository'}; nothing was sent.",
            f"This folder is of {here}, whose secrets are others.",
            f"cd to {repo or 'where it was run'}, and there: dstack restart {record.run_name}",
            code="other-repository",
        )
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
    workflows = [job.spec.workflow or job.spec.provider for job in submission.jobs]
    now = asyncio.get_running_loop().time
    return Watching(screen, submission.record.run_name, workflows, now, detach_hint(terminal, wish))


def _hex(digest: Digest) -> str:
    return digest.hex()[:12]
