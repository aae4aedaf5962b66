"""Answers asks, holds what was won, and takes jobs over: an agent's counter in the auction.

The same rule (`dstack_scheduler.fit`) answers an ask and guards a hold and an award within the
ledger's transaction, so what was answered a moment ago is never trusted; an award is judged with
the whole specification at hand. A commit answers only once the job is durable here, and is carried
out to its end even if the caller goes away meanwhile.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime
from enum import Enum
from typing import Protocol, TypeVar

from dstack_agent.environments.recipe import check_installs
from dstack_agent.lease import Award, Claim, Lease
from dstack_agent.ledger import Ledger
from dstack_agent.owner.terms import Terms
from dstack_agent.records import Given
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.faults import Invalid, MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, HoldId, PeerId, RunId
from dstack_mesh.machine import Machine, RunningJob
from dstack_mesh.run_ids import is_of
from dstack_mesh.wire.rights import STOPPING_ANY, others_run
from dstack_scheduler.agent_port import Hold, Question, question_of
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.fit import Taken, occupied
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.secret import check_value, why_no_name
from dstack_scheduler.verdict import Bid, Verdict

log = logging.getLogger(__name__)

THREADS = 4
"""Threads of its own, so that bids do not queue behind the copying of files."""

AGAIN_SECONDS = 2.0
"""Before holds that ended are dropped again, where that failed."""

SEEN_SECONDS = 0.5
"""So long one reading answers questions; what is held or leased meanwhile ends it at once.

With the ages that the inventory allows, a stranger on a card is seen within two seconds.
"""

_DRIVING = frozenset(role.value for role in STOPPING_ANY)

T = TypeVar("T")

Accept = Callable[[JobSpec, tuple[str, ...], Mapping[str, str], Given], Awaitable[None]]
"""Makes a job this agent's, given its cards, its secrets and who gave it.

Durable on return; idempotent by key.
"""


class Store(Protocol):
    """What is asked of the chunk store."""

    def missing_manifest(self, digest: Digest) -> bool: ...


@frozen
class _Seen:
    """What answers are made of, good until a moment of the loop's clock or the next change."""

    until: float
    strokes: int
    machine: Machine
    taken: tuple[Taken, ...]


class BidDesk:
    """Asks, holds and awards of one agent.

    Args:
        machine: Reads the machine; called in a thread.
        ledger: Who has what of it.
        store: Which code and inputs are here.
        accept: Takes a job over.
        terms: On which terms the owner lends the machine now; does no I/O.
        name_of: A peer's name for people; empty if it is not known.
        note: Has people know something about a job that was taken.
        meeting_point: Where others would reach a job that starts here now. Blocks for a moment.
    """

    def __init__(
        self,
        machine: Callable[[], Machine],
        ledger: Ledger,
        store: Store,
        accept: Accept,
        terms: Callable[[], Terms] = Terms,
        name_of: Callable[[PeerId], str] = lambda peer: "",
        note: Callable[[JobKey, str], None] = lambda key, sentence: None,
        meeting_point: Callable[[], str] = lambda: "",
    ) -> None:
        self._machine = machine
        self._ledger = ledger
        self._store = store
        self._accept = accept
        self._terms = terms
        self._name_of = name_of
        self._note = note
        self._meeting_point = meeting_point
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bids")
        self._group: asyncio.TaskGroup | None = None
        self._seen: _Seen | None = None

    async def run(self) -> None:
        """Ends holds on time and carries awards out, until cancelled. Commits need it running."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._expire()
        finally:
            self._group = None
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, question: Question, asker: Asker = OWNER) -> Bid:
        """Whether the agent could run the job. Changes nothing.

        What was read for the last question serves the next ones for `SEEN_SECONDS`, or until the
        ledger changes: a crowd that asks costs no reading each.
        """
        now = asyncio.get_running_loop().time()
        seen = self._seen
        if seen is None or now >= seen.until or self._ledger.changes.strokes != seen.strokes:
            seen = self._seen = await self._in_thread(lambda: self._look(now + SEEN_SECONDS))
        return self._bid(question, seen, self._named(asker))

    async def reserve(self, question: Question, epoch: int, asker: Asker) -> Hold:
        """Holds what the job needs, or renews the hold.

        Raises:
            Busy: With reasons.
            Conflict: A higher epoch was seen, or it is another's.
            Forbidden: The run is somebody else's.
        """
        check_takes(asker, question.key.run_id)
        claim = Claim(
            key=question.key,
            run_name=question.run_name,
            needs=question.needs,
            executor=question.executor,
            epoch=epoch,
            peer=asker.peer_id,
            behind=behind(asker),
            owner="" if asker.is_owner else self._name_of(asker.peer_id),
        )
        asker = self._named(asker)
        return await self._in_thread(lambda: self._reserve(question, claim, asker))

    async def commit(
        self,
        hold_id: HoldId,
        epoch: int,
        spec: JobSpec,
        secrets: Mapping[str, str],
        asker: Asker = OWNER,
    ) -> None:
        """Turns a hold into this agent's job.

        Raises:
            Missing: The hold is gone.
            Conflict: A higher epoch was seen, or the job was awarded otherwise.
            Refused: The code has not arrived, or the owner forbids the job.
            Forbidden: The run is somebody else's.
            Busy: The machine does not take it any more.
        """
        check_takes(asker, spec.key.run_id)
        if self._group is None:
            raise Refused("The agent is starting or stopping.", hint="try again", code="not-ready")
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asker = self._named(asker)
        self._group.create_task(self._award(answer, hold_id, epoch, spec, secrets, asker))
        await asyncio.shield(answer)

    async def release(self, hold_id: HoldId) -> None:
        """Gives a hold back; what is not held stays as it is."""
        await self._in_thread(lambda: self._ledger.release(hold_id))

    def machine(self) -> Machine:
        """The machine with the holders of its cards, as it is told to others. Blocks."""
        return occupied(self._machine(), self._ledger.taken())

    def running(self) -> tuple[RunningJob, ...]:
        """The jobs that run here. Blocks."""
        return tuple(
            RunningJob(lease.run_name, lease.key.job, lease.gpu_uuids)
            for lease in self._ledger.leases()
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _named(self, asker: Asker) -> Asker:
        """The asker with the name that members know; the beginning of an id is no name."""
        name = "" if asker.is_owner else self._name_of(asker.peer_id)
        if asker.behind is not None:
            asker = replace(asker, behind=self._named(asker.behind))
        return asker if not name or asker.peer_id.startswith(name) else replace(asker, name=name)

    def _look(self, until: float) -> _Seen:
        strokes = self._ledger.changes.strokes
        return _Seen(until, strokes, self._machine(), self._ledger.taken())

    def _bid(self, question: Question, seen: _Seen, asker: Asker) -> Bid:
        verdict = self._terms().verdict(question, seen.machine, seen.taken, asker)
        inputs = zip(question.input_digests, question.input_sizes_bytes, strict=False)
        absent = (size for digest, size in inputs if self._store.missing_manifest(digest))
        return Bid(verdict, sum(absent))

    def _reserve(self, question: Question, claim: Claim, asker: Asker) -> Hold:
        hold = self._ledger.reserve(claim, self._deciding(question, asker))
        return replace(hold, meeting_point=self._meeting_point()) if question.meets else hold

    def _deciding(self, question: Question, asker: Asker) -> Callable[[tuple[Taken, ...]], Verdict]:
        """What the ledger asks within its transaction. Blocks for a reading of the machine."""
        terms, machine = self._terms(), self._machine()
        return lambda taken: terms.verdict(question, machine, taken, asker)

    async def _award(
        self,
        answer: "asyncio.Future[None]",
        hold_id: HoldId,
        epoch: int,
        spec: JobSpec,
        secrets: Mapping[str, str],
        asker: Asker,
    ) -> None:
        try:
            await self._take_over(_award(hold_id, epoch, spec, asker), spec, secrets, asker)
        except Exception as error:  # whoever asked gets it; the agent and its jobs go on
            if not answer.cancelled():
                answer.set_exception(error)
        else:
            if not answer.cancelled():
                answer.set_result(None)
        finally:
            answer.cancel()

    async def _take_over(
        self, award: Award, spec: JobSpec, secrets: Mapping[str, str], asker: Asker
    ) -> None:
        _check_secrets(spec, secrets)
        check_installs(spec)
        await self._in_thread(lambda: self._check_code(spec))
        lease = await self._in_thread(lambda: self._commit(award, spec, asker))
        if lease.ended:
            return
        try:
            given = Given(lease.peer, lease.epoch, lease.behind)
            await self._accept(spec, lease.gpu_uuids, secrets, given)
        except Exception:  # whatever it was, a lease without a job would hold its cards for ever
            await self._in_thread(lambda: self._ledger.withdraw(spec.key))
            raise
        if told := self._terms().limited(spec)[1]:
            self._note(spec.key, told)

    def _commit(self, award: Award, spec: JobSpec, asker: Asker) -> Lease:
        return self._ledger.commit(award, self._deciding(question_of(spec), asker))

    def _check_code(self, spec: JobSpec) -> None:
        if spec.code_digest and self._store.missing_manifest(spec.code_digest):
            raise Refused(
                "The code of the job has not arrived.",
                f"Its list of files {spec.code_digest.hex()[:16]}… is not here.",
                "send the code, then commit again",
                "code-missing",
            )

    async def _expire(self) -> None:
        while True:
            seen = self._ledger.changes.strokes
            try:
                pause = await self._in_thread(self._ledger.expire)
            except MeshError as error:  # a full disk, a damaged file: jobs go on without
                log.warning("holds that ended could not be dropped: %s", error)
                pause = AGAIN_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ledger.changes.later_than(seen)


def _check_secrets(spec: JobSpec, secrets: Mapping[str, str]) -> None:
    """Raises Invalid for a name or a value that no variable can have. Never says a value."""
    for name in spec.secret_names:
        if why := why_no_name(name):
            raise Invalid(f"{name!r} cannot be the name of a secret.", f"{why}.", code="bad-secret")
    for name, value in secrets.items():
        check_value(name, value)


def spec_digest(spec: JobSpec) -> Digest:
    """Names what a specification says; where its inputs can be had is no part of it."""
    inputs = tuple(replace(each, sources=()) for each in spec.inputs)
    said = asdict(replace(spec, inputs=inputs))
    return digest_of(json.dumps(said, sort_keys=True, default=_plain).encode())


def _plain(value: object) -> str:
    match value:
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat()
        case Enum():
            return str(value.value)
        case _:
            raise TypeError(f"{value!r} has no place in a specification")


def check_takes(asker: Asker, run_id: RunId) -> None:
    """Raises Forbidden unless somebody may have an agent take up something of a run.

    Who drives runs of others may. Not merely because somebody handed it a run: then it may what
    they may.
    """
    if asker.behind is not None:
        check_takes(asker.behind, run_id)
    elif not asker.is_owner and asker.role not in _DRIVING and not is_of(run_id, asker.peer_id):
        raise others_run()


def behind(asker: Asker) -> PeerId:
    """For whom a peer asks; empty if for itself."""
    return asker.behind.peer_id if asker.behind is not None else PeerId("")


def _award(hold_id: HoldId, epoch: int, spec: JobSpec, asker: Asker) -> Award:
    return Award(
        hold_id=hold_id,
        epoch=epoch,
        key=spec.key,
        needs=spec.needs,
        executor=spec.executor,
        spec_digest=spec_digest(spec),
        owner=spec.owner,
        peer=asker.peer_id,
        behind=behind(asker),
    )
