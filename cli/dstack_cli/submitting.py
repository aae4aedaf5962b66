"""Makes a run out of a plan and carries it out: in front of somebody, or handed over at once."""

import asyncio
import posixpath
import random
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import field, replace
from datetime import UTC, datetime

from dstack_cli.code import Code
from dstack_cli.naming import owner
from dstack_cli.orders import keep_order
from dstack_cli.reach import Reach
from dstack_cli.remembered import Submitted, remember
from dstack_cli.vouching import Vouching
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import MeshError, Unreachable
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.trust.membership import Membership
from dstack_scheduler.again import retry_of
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.driver import Driver
from dstack_scheduler.job import RunRecord, StateChange, TagRecord
from dstack_scheduler.plan import Plan
from dstack_scheduler.progress import Awarded, Progress, Waiting, Watcher
from dstack_scheduler.retry import ONCE
from dstack_scheduler.submission import HandOver, Submission, Submitter, submission_of


@frozen
class Order:
    """What is to be submitted.

    Attributes:
        code: The folder's files, being read in another thread.
        tag: A name for the run; "" for none.
        secrets: Values by name; in memory only.
        replan: The plan without workflows that have results already; None where every job runs.
    """

    plan: Plan
    run_id: RunId
    run_name: RunName
    code: "Future[Code]"
    placement: str = ""
    tag: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    replan: Callable[[Collection[str]], Plan] | None = None


class DrivenWork:
    """A run that this command drives; implements `attended.Work`."""

    def __init__(self, reach: Reach, submission: Submission, tag: str, watcher: Watcher) -> None:
        self._reach = reach
        self._submission = submission
        self._tag = tag
        self._watcher = watcher
        self._remembered = False
        self.settled = asyncio.Event()
        self.accepted = False
        self._driver = Driver(
            *(submission, reach, reach.store, self, SystemClock(), random.random),
            elsewhere=reach.elsewhere if reach.has_elsewhere else None,
        )
        self._vouching = Vouching(reach.home, submission, reach.find)

    @property
    def name(self) -> str:
        return self._submission.record.run_name

    @property
    def run_id(self) -> RunId:
        return self._submission.record.run_id

    async def run(self) -> StateChange:
        try:
            return await self._driver.run()
        finally:
            self.settled.set()
            await self._vouching.finish()

    async def stop(self, abort: bool) -> None:
        self._driver.stop(abort, f"stopped by {self._submission.record.owner}")

    @property
    def why_stay(self) -> str:
        waiting = self._waiting_for_secrets()
        if not waiting:
            return ""
        return f"{', '.join(waiting)} will need secrets, which are kept in this home alone."

    @property
    def caveat(self) -> str:
        specs = (job.spec for job in self._driver.hand_over().jobs if job.spec.secrets_needed)
        names = [spec.workflow or spec.provider for spec in specs if retry_of(spec) != ONCE]
        if not names:
            return ""
        verb = "is" if len(names) == 1 else "are"
        why = "secrets are kept in this home alone"
        return f"{', '.join(names)} {verb} not tried again without you: {why}"

    def _waiting_for_secrets(self) -> list[str]:
        """Jobs without an agent whose values only we have."""
        return [
            job.spec.workflow or job.spec.provider
            for job in self._driver.hand_over().jobs
            if job.awarded is None and job.spec.secrets_needed
        ]

    async def leave(self) -> None:
        self._remember()
        handed = await self._driver.detach()
        if handed is not None:
            await hand_over(self._reach, await self._vouching.signed_by_us(handed))

    async def saw(self, event: Progress) -> None:
        """Notes what matters to us and passes it on."""
        first = isinstance(event, Awarded) and not self.accepted
        if first:
            self.accepted = True
            self._remember()
        await self._watcher.saw(event)
        self._vouching.saw(event)
        if isinstance(event, (Awarded, Waiting)) and not self._waiting_for_secrets():
            self.settled.set()
        if first and self._tag:
            await give_tag(self._reach, self._submission.record, self._tag)

    def _remember(self) -> None:
        if self._remembered:
            return
        self._remembered = True
        record = self._submission.record
        remember(
            self._reach.home,
            Submitted(
                run_id=record.run_id,
                run_name=record.run_name,
                target=record.target,
                owner=record.owner,
                repo=record.revision.repo,
                submitted_at=record.submitted_at.isoformat(),
                variables=dict(record.variables),
                job_count=record.job_count,
            ),
        )
        with suppress(OSError):  # a full disk: the run cannot be started again, and no more
            keep_order(self._reach.home, record, self._driver.hand_over().jobs)


async def submission(order: Order) -> Submission:
    """The run as a driver wants it, once the code is read."""
    code = await asyncio.wrap_future(order.code)
    by = Submitter(
        owner=owner(),
        submitted_at=datetime.now(UTC),
        code_digest=code.digest,
        revision=code.revision,
        placement=order.placement,
        code_bytes=code.size_bytes,
        secrets=order.secrets,
    )
    return submission_of(_below(order.plan, code.prefix), order.run_id, order.run_name, by)


def _below(plan: Plan, folder: str) -> Plan:
    """The plan with its jobs in the project's own folder of the repository."""
    if not folder:
        return plan
    jobs = (
        replace(
            job,
            working_dir=posixpath.join(folder, job.working_dir),
            counted=tuple(posixpath.join(folder, pattern) for pattern in job.counted),
        )
        for job in plan.jobs
    )
    return replace(plan, jobs=tuple(jobs))


async def hand_over(reach: Reach, handed: HandOver) -> Agent:
    """Finds an agent that drives what is left of a run.

    Raises:
        Unreachable: Nobody took it; the run goes on only as far as agents have its jobs.
    """
    trouble: MeshError | None = None
    membership = Membership.load(reach.home)
    told = handed.seen_elsewhere(membership.peer_id) if membership is not None else handed
    for agent in await _drivers(reach, handed):
        try:
            if not agent.local:
                await agent.send_tree(handed.code_digest)
            await agent.drive(told.record, told.jobs, told.epoch)
            return agent
        except MeshError as error:
            trouble = error
    raise Unreachable(
        f"Nobody drives what is left of {handed.record.run_name}.",
        str(trouble) if trouble is not None else "No agent is in reach.",
        f"stay attached, or stop it: dstack stop {handed.record.run_name}",
        code="not-handed-over",
    )


async def _drivers(reach: Reach, handed: HandOver) -> list[Agent]:
    """Who may drive, best first: whoever has a job of the run, then other machines, then ours.

    A run of which a job is bound to this machine is driven by its agent.
    """
    found = list(await reach.answering())
    if any(job.placement == "local" for job in handed.jobs):
        return [agent for agent in found if agent.local]
    having = {job.awarded.peer_id for job in handed.jobs if job.awarded is not None}
    return sorted(
        found,
        key=lambda agent: (
            agent.local,
            agent.card.peer_id not in having,
            agent.card.peer_id,
        ),
    )


async def give_tag(reach: Reach, record: RunRecord, tag: str) -> None:
    """Names the run."""
    from dstack_cli.naming_tags import say_tag  # most runs are not named at once

    now = datetime.now(UTC)
    # Whoever names a run as it starts means to replace whatever has the name.
    statement = TagRecord(record.revision.repo, tag, record.run_id, record.run_name, now, over=now)
    await say_tag(reach, statement)
