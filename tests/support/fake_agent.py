"""An agent in memory, honest about holds, epochs, offsets and silence, for tests of who drives one.

A `FakeMachine` is the agent itself; a `FakeAgent` is how somebody with a store of their own sees
it. Commands are played, not run: `echo TEXT`, `exit N`, and `sleep`, which stays until it is ended.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.faults import Busy, Conflict, Missing, Refused, Unreachable
from dstack_mesh.ids import Address, Digest, HoldId, MeshId, PeerId, RunId
from dstack_mesh.signing import Signed
from dstack_scheduler.agent_port import AttachEvent, Attachment, DrivenJob, Hold, Listing, Question
from dstack_scheduler.job import (
    EndOfLog,
    JobKey,
    JobRecord,
    JobSpec,
    JobState,
    LogStream,
    RunRecord,
    TagRecord,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Bid, Later, Never, Now, Reason
from support.fake_job import FakeJob, frames, news, play_commands
from support.fake_store import FakeStore

T = TypeVar("T")

HOLD_SECONDS = 15.0


@dataclass(slots=True)
class _Claim:
    question: Question
    epoch: int
    gpu_uuids: tuple[str, ...]
    expires_at: float


class FakeMachine:
    """The agent itself.

    Args:
        cards: How many GPUs it has.
        jobs_at_once: How many jobs it takes.
        play: What a job does as soon as it is awarded.
        clock: For holds.
    """

    def __init__(
        self,
        name: str,
        cards: int = 0,
        jobs_at_once: int = 100,
        addresses: Sequence[str] = (),
        play: Callable[[FakeJob], None] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        peer = PeerId((name.replace("-", "").translate(str.maketrans("0189", "abcd")) * 32)[:32])
        self.card = PeerCard(
            peer, MeshId("m" * 32), name, tuple(map(Address, addresses)), "0", agent=True
        )
        self.gpu_uuids = tuple(f"SIM-{name}-{index}" for index in range(cards))
        self.jobs_at_once = jobs_at_once
        self.play = play or play_commands
        self.clock = clock
        self.up = True
        self.lost_answers = 0
        self.cut_after: int | None = None
        self.trees: set[Digest] = set()
        self.holds: dict[HoldId, _Claim] = {}
        self.jobs: dict[JobKey, FakeJob] = {}
        self.epochs: dict[tuple[RunId, int], int] = {}
        self.tags: dict[tuple[str, str], TagRecord] = {}
        self.removed: set[RunId] = set()
        self.vouched: dict[tuple[RunId, int], Signed] = {}
        self.driven: list[tuple[RunRecord, tuple[DrivenJob, ...], int]] = []
        self.calls: list[str] = []

    def seen_by(self, store: FakeStore, local: bool = False) -> "FakeAgent":
        """How somebody sees it."""
        return FakeAgent(self, store, local)

    @property
    def running(self) -> list[FakeJob]:
        return [job for job in self.jobs.values() if not job.state.state.ended]

    def free(self) -> list[str]:
        """Cards that nobody has or holds now."""
        self._expire()
        taken = {uuid for job in self.running for uuid in job.gpu_uuids}
        held = {uuid for claim in self.holds.values() for uuid in claim.gpu_uuids}
        return [uuid for uuid in self.gpu_uuids if uuid not in taken | held]

    def bid(self, needs: Needs, key: JobKey | None = None) -> Bid:
        """What it says to an ask; the asker's own hold does not count against it."""
        if needs.gpus > len(self.gpu_uuids):
            reason = f"It has {len(self.gpu_uuids)} GPUs, the job needs {needs.gpus}."
            return Bid(Never((Reason("gpu-too-few", reason, "ask for fewer GPUs"),)))
        own = [claim for claim in self.holds.values() if claim.question.key == key]
        free = len(self.free()) + sum(len(claim.gpu_uuids) for claim in own)
        if needs.gpus > free:
            holders = sorted({job.spec.run_name for job in self.running if job.gpu_uuids})
            return Bid(Later((Reason("gpu-busy", f"Its GPUs are held by {', '.join(holders)}."),)))
        if len(self.running) + len(self.holds) - len(own) >= self.jobs_at_once:
            return Bid(Later((Reason("too-many-jobs", "It runs as many jobs as it takes."),)))
        return Bid(Now((), free - needs.gpus, len(self.running)))

    def fence(self, key: JobKey, epoch: int) -> None:
        """Refuses a driver that was replaced."""
        place = (key.run_id, key.job)
        seen = self.epochs.get(place, 0)
        if epoch < seen:
            raise Conflict("Another driver has taken the run over.", f"{seen}", code="epoch")
        self.epochs[place] = epoch

    def find(self, key: JobKey) -> FakeJob:
        """The attempt, or the newest one for attempt 0."""
        if key.attempt:
            found = self.jobs.get(key)
        else:
            attempts = [k for k in self.jobs if (k.run_id, k.job) == (key.run_id, key.job)]
            found = self.jobs[max(attempts)] if attempts else None
        if found is None:
            raise Missing("There is no such job here.", f"{key}", code="no-such-job")
        return found

    def _expire(self) -> None:
        now = self.clock()
        for hold_id in [h for h, claim in self.holds.items() if claim.expires_at <= now]:
            del self.holds[hold_id]


class FakeAgent:
    """Implements `agent_port.Agent` over a `FakeMachine`."""

    def __init__(self, machine: FakeMachine, store: FakeStore, local: bool) -> None:
        self.machine = machine
        self._store = store
        self._local = local

    @property
    def card(self) -> PeerCard:
        return self.machine.card

    @property
    def local(self) -> bool:
        return self._local

    async def ask(self, question: Question) -> Bid:
        await asyncio.sleep(0)
        self._arrive("ask")
        return self._leave(self.machine.bid(question.needs, question.key))

    async def reserve(self, question: Question, epoch: int) -> Hold:
        await asyncio.sleep(0)
        self._arrive("reserve")
        machine, key = self.machine, question.key
        meeting = f"{machine.card.name}:29500" if question.meets else ""
        machine.fence(key, epoch)
        verdict = machine.bid(question.needs, key).verdict
        known = next((h for h, c in machine.holds.items() if c.question.key == key), None)
        if known is not None:
            machine.holds[known].expires_at = machine.clock() + HOLD_SECONDS
            return self._leave(Hold(known, HOLD_SECONDS, machine.holds[known].gpu_uuids, meeting))
        if key in machine.jobs:
            cards = machine.jobs[key].gpu_uuids
            return self._leave(Hold(HoldId("leased"), HOLD_SECONDS, cards, meeting))
        if not isinstance(verdict, Now):
            raise Busy("It is not free any more.", "; ".join(r.message for r in verdict.reasons))
        hold_id = HoldId(f"hold-{len(machine.calls)}")
        cards = tuple(machine.free()[: question.needs.gpus])
        until = machine.clock() + HOLD_SECONDS
        machine.holds[hold_id] = _Claim(question, epoch, cards, until)
        return self._leave(Hold(hold_id, HOLD_SECONDS, cards, meeting))

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None:
        await asyncio.sleep(0)
        self._arrive("commit")
        machine = self.machine
        machine.fence(spec.key, epoch)
        if spec.key in machine.jobs:
            return self._leave(None)
        machine.free()
        claim = machine.holds.get(hold_id)
        if claim is None or claim.question.key != spec.key:
            raise Missing("The hold is gone.", code="hold-expired")
        if spec.code_digest not in machine.trees and not self._shared(spec.code_digest):
            raise Refused("The code is not here.", code="no-code")
        del machine.holds[hold_id]
        job = FakeJob(spec, claim.gpu_uuids)
        job.enter(JobState.PREPARING)
        machine.jobs[spec.key] = job
        machine.play(job)
        machine.trees.update(artifact.digest for artifact in job.artifacts)
        return self._leave(None)

    async def release(self, hold_id: HoldId) -> None:
        self._arrive("release")
        self.machine.holds.pop(hold_id, None)

    @asynccontextmanager
    async def attach(self) -> AsyncGenerator[Attachment]:
        self._arrive("attach")
        yield FakeAttachment(self.machine, self._store)

    async def list_runs(
        self, runs: Sequence[str] = (), reuse_keys: Sequence[Digest] = ()
    ) -> Listing:
        self._arrive("list")
        del reuse_keys  # whoever asks looks again at what comes
        by_run: dict[RunId, list[FakeJob]] = {}
        for job in self.machine.jobs.values():
            by_run.setdefault(job.key.run_id, []).append(job)
        records = [self._record(jobs) for jobs in by_run.values()]
        wanted = [r for r in records if not runs or r.run_id in runs or r.run_name in runs]
        return Listing(tuple(wanted), tuple(self.machine.tags.values()))

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
        self._arrive("stop")
        found = [
            each
            for each in self.machine.jobs.values()
            if each.key.run_id == run_id and job in (None, each.key.job)
        ]
        if not found:
            raise Missing("There is no such run here.", f"{run_id}", code="no-such-run")
        for each in found:
            if not each.state.state.ended:
                each.enter(JobState.ABORTED if abort else JobState.STOPPED, cause=cause)
                await each.poke()
        return self._leave(len(found))

    async def drive(self, record: RunRecord, jobs: Sequence[DrivenJob], epoch: int) -> None:
        self._arrive("drive")
        self.machine.driven.append((record, tuple(jobs), epoch))

    async def tag(self, tag: TagRecord) -> None:
        self._arrive("tag")
        place = (tag.repo, tag.tag)
        known = self.machine.tags.get(place)
        if known is None or (tag.at, tag.run_id or "") > (known.at, known.run_id or ""):
            self.machine.tags[place] = tag

    async def remove(self, run_id: RunId) -> None:
        self._arrive("remove")
        self.machine.removed.add(run_id)

    async def reload(self, key: JobKey, code: Digest) -> Replaced:
        self._arrive("reload")
        if key not in self.machine.jobs or code not in self.machine.trees:
            raise Missing("The job or the code is not here.", code="no-such-job")
        return self._leave(Replaced())

    async def forget_caches(self, repo: str, workflow: str) -> int:
        self._arrive("forget")
        return 0

    async def vouch(self, run_id: RunId, job: int, signed: Signed) -> None:
        self._arrive("vouch")
        self.machine.vouched[run_id, job] = signed

    async def send_tree(self, digest: Digest) -> int:
        self._arrive("send")
        if self._store.missing_manifest(digest):
            raise Missing("The tree is not here.", digest.hex())
        new = digest not in self.machine.trees
        self.machine.trees.add(digest)
        return len(digest) if new else 0

    async def fetch_tree(self, digest: Digest) -> int:
        self._arrive("fetch")
        if digest not in self.machine.trees:
            raise Missing("The tree is not there.", digest.hex())
        self._store.trees.add(digest)
        return len(digest)

    def _arrive(self, call: str) -> None:
        self.machine.calls.append(call)
        if not self.machine.up:
            raise Unreachable(f"{self.card.name} cannot be reached.")

    def _leave(self, answer: T) -> T:
        """The answer, unless it gets lost on its way."""
        if self.machine.lost_answers:
            self.machine.lost_answers -= 1
            raise Unreachable(f"{self.card.name} did not answer in time.")
        return answer

    def _shared(self, digest: Digest) -> bool:
        return self._local and not self._store.missing_manifest(digest)

    def _record(self, jobs: list[FakeJob]) -> RunRecord:
        spec = jobs[0].spec
        records = tuple(
            JobRecord(
                job.key,
                job.spec.workflow,
                job.spec.provider,
                job.state,
                self.card.peer_id,
                self.card.name,
                job.gpu_uuids,
                tuple(job.artifacts),
            )
            for job in jobs
        )
        return RunRecord(
            spec.key.run_id,
            spec.run_name,
            spec.workflow,
            spec.owner,
            spec.submitted_at,
            len(records),
            spec.revision,
            spec.variables,
            records,
        )


class FakeAttachment:
    """Implements `agent_port.Attachment`: one job at a time, which is what a follower needs."""

    def __init__(self, machine: FakeMachine, store: FakeStore) -> None:
        self._machine = machine
        self._store = store
        self._wish: tuple[JobKey, dict[LogStream, int], bool] | None = None
        self.acked: tuple[int, int] = (0, 0)

    async def follow(
        self, key: JobKey, stdout_offset: int = 0, stderr_offset: int = 0, until_now: bool = False
    ) -> None:
        offsets = {LogStream.STDOUT: stdout_offset, LogStream.STDERR: stderr_offset}
        self._wish = (key, offsets, until_now)

    async def ack(self, key: JobKey, stdout_offset: int, stderr_offset: int) -> None:
        self.acked = (stdout_offset, stderr_offset)

    async def stop(self, key: JobKey, abort: bool, cause: str) -> None:
        await FakeAgent(self._machine, self._store, False).stop(key.run_id, key.job, abort, cause)

    async def want(self, digests: Sequence[Digest]) -> None:
        self._store.trees.update(set(digests) & self._machine.trees)

    async def events(self) -> AsyncGenerator[AttachEvent, None]:
        sent = 0
        async for event in self._all():
            if not self._machine.up or sent == self._machine.cut_after:
                raise Unreachable(f"{self._machine.card.name} cannot be reached.")
            sent += 1
            yield event

    async def _all(self) -> AsyncGenerator[AttachEvent, None]:
        if self._wish is None:
            return
        key, offsets, until_now = self._wish
        job = self._machine.find(key)
        told = 0
        while True:
            ended = job.fin
            states = job.states[told : -1 if ended else None]
            told += len(states)
            for state in states:
                yield state
            for frame in frames(job, offsets):
                yield frame
            if ended is not None:
                yield ended.state
                yield ended
                return
            if until_now:
                yield EndOfLog(job.key)
                return
            async with job.changed:
                if not news(job, offsets, told):
                    await job.changed.wait()
