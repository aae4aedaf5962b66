"""What a driver knows of the jobs of its run: where each is, how it stands, what it kept."""

from collections.abc import Mapping
from dataclasses import replace

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest
from dstack_scheduler.again import again_after, event_of, retry_of
from dstack_scheduler.agent_port import Agent, DrivenJob
from dstack_scheduler.inputs import kept_by
from dstack_scheduler.job import (
    Fin,
    Input,
    JobKey,
    JobRecord,
    JobSpec,
    JobState,
    Source,
    StateChange,
)
from dstack_scheduler.search import Won
from dstack_scheduler.submission import HandOver, Submission, with_attempt


@frozen
class Place:
    """Where an attempt is. `won` only if this driver awarded it."""

    key: JobKey
    source: Source
    agent: Agent | None = None
    won: Won | None = None
    confirmed: bool = True

    def sure(self) -> "Place":
        """The same, now that the agent is known to have the attempt."""
        return replace(self, confirmed=True)


class Track:
    """Only remembers; decisions are made elsewhere."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self.jobs = submission.jobs
        self._places: dict[int, Place] = {}
        self._latest: dict[int, StateChange] = {}
        self._fins: dict[int, tuple[Fin, Agent]] = {}
        for index, job in enumerate(submission.jobs):
            if job.awarded is not None:
                self._places[index] = Place(awarded_key(job), job.awarded)

    def spec(self, key: JobKey) -> JobSpec:
        """The specification of an attempt, with what the jobs before it kept."""
        job = self.jobs[key.job]
        before = (each for index in job.after for each in self._kept(index))
        return replace(job.spec, key=key, inputs=(*job.spec.inputs, *before, *job.resumes))

    def place(self, job: int) -> Place | None:
        """Where the newest attempt is; None while no agent has it."""
        return self._places.get(job)

    def put(self, job: int, place: Place) -> None:
        """Notes where an attempt is, or how sure that is."""
        self._places[job] = place

    def remove(self, job: int) -> None:
        """Notes that the attempt is nowhere."""
        self._places.pop(job, None)

    def again(self, key: JobKey, ended: StateChange) -> Place | None:
        """Notes that another attempt is made at a job; what an interrupted one kept is put back.

        Returns:
            Where the one before was.
        """
        before = self._places.pop(key.job, None)
        if event_of(ended) == "interruption":
            # One that was interrupted before it had begun kept nothing.
            job = self.jobs[key.job]
            job = replace(job, resumes=self._kept(key.job) or job.resumes)
            self.jobs = (*self.jobs[: key.job], job, *self.jobs[key.job + 1 :])
        self._fins.pop(key.job, None)
        return before

    def saw(self, change: StateChange) -> None:
        """Notes a state."""
        self._latest[change.key.job] = change

    def ended(self, fin: Fin, agent: Agent) -> None:
        """Notes how an attempt ended and who has what it kept."""
        self._latest[fin.key.job] = fin.state
        self._fins[fin.key.job] = (fin, agent)

    def kept(self, key: JobKey, path: str) -> tuple[Digest, Agent] | None:
        """What an ended attempt kept under a path, and who has it."""
        fin, agent = self._fins[key.job]
        found = (each.digest for each in fin.artifacts if each.path == path)
        digest = next(found, None)
        return None if digest is None else (digest, agent)

    def latest(self, key: JobKey) -> StateChange:
        """The newest state of a job; submitted if nothing was heard."""
        record = self._submission.record
        begun = StateChange(key, JobState.SUBMITTED, record.submitted_at)
        return self._latest.get(key.job, begun)

    def incomplete(self) -> list[int]:
        """Nodes without an agent, of gangs some of whose nodes have one."""
        return [
            index
            for index, job in enumerate(self.jobs)
            if job.awarded is None
            and job.spec.node is not None
            and any(self.jobs[node].awarded for node in job.spec.node.indexes(index))
        ]

    def remains(self, unplaced: Mapping[int, JobKey]) -> bool:
        """Whether a driver is needed still: a job has no agent, or it is not sure to have one, or
        it may have to be tried again, or it makes jobs."""
        unsure = any(not place.confirmed for place in self._places.values())
        making = any(job.spec.makes for job in self.jobs)
        return bool(unplaced) or unsure or making or any(map(self._may_come_again, self._places))

    def _may_come_again(self, job: int) -> bool:
        spec, place = self.jobs[job].spec, self._places[job]
        last = self.latest(place.key)
        more = place.key.attempt <= retry_of(spec).attempts
        return more and (not last.state.ended or again_after(spec, last))

    def hand_over(self, unplaced: Mapping[int, JobKey]) -> HandOver:
        """What another driver must know.

        Args:
            unplaced: Jobs that no agent has, with the attempt to make next.
        """
        jobs = tuple(self._driven(index, unplaced.get(index)) for index in range(len(self.jobs)))
        records = tuple(self._record(index) for index in sorted(self._places))
        return HandOver(
            record=replace(self._submission.record, jobs=records, job_count=self._count()),
            jobs=jobs,
            epoch=self._submission.epoch + 1,
            code_digest=jobs[-1].spec.code_digest,
        )

    def _count(self) -> int:
        making = sum(bool(job.spec.makes) for job in self.jobs)
        return len(self.jobs) + making

    def _driven(self, index: int, next_key: JobKey | None) -> DrivenJob:
        job = self.jobs[index]
        place = self._places.get(index)
        if next_key is not None or place is None:
            attempt = next_key.attempt if next_key is not None else job.spec.key.attempt
            return replace(with_attempt(job, attempt), awarded=None)
        return replace(with_attempt(job, place.key.attempt + 1), awarded=place.source)

    def _record(self, index: int) -> JobRecord:
        job, place = self.jobs[index], self._places[index]
        fin = self._fins.get(index)
        return JobRecord(
            key=place.key,
            workflow=job.spec.workflow,
            provider=job.spec.provider,
            state=self.latest(place.key),
            agent_id=place.source.peer_id,
            agent_name=place.agent.card.name if place.agent is not None else "",
            gpu_uuids=place.won.hold.gpu_uuids if place.won is not None else (),
            artifacts=fin[0].artifacts if fin is not None else (),
            apps=job.spec.app_names,
        )

    def _kept(self, index: int) -> tuple[Input, ...]:
        found = self._fins.get(index)
        if found is None:
            return ()
        fin, agent = found
        spec = self.jobs[index].spec
        origin = f"{spec.run_name} ({spec.workflow})" if spec.workflow else spec.run_name
        return kept_by(fin, agent.card, origin)


def awarded_key(job: DrivenJob) -> JobKey:
    """The attempt that an agent has; the key of a driven job carries the next one."""
    return replace(job.spec.key, attempt=max(1, job.spec.key.attempt - 1))
