"""What this agent knows of runs, for whoever lists them: those it executes, executed or drives.

Beside them it passes on what other agents published, each under its own name.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby

from dstack_agent.driven import DrivenRuns
from dstack_agent.records import Accepted, Records
from dstack_agent.removals import Removals
from dstack_agent.tags import Tags
from dstack_mesh.card import PeerCard
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId, RunId
from dstack_scheduler.again import again_after
from dstack_scheduler.agent_port import Listing, Telling
from dstack_scheduler.job import (
    RECLAIMED,
    ArtifactSaved,
    JobRecord,
    JobState,
    RunRecord,
    Source,
    StateChange,
)

log = logging.getLogger(__name__)

MOST_RUNS = 1_000
"""Runs that are listed where none is named; older ones are found by their name or tag."""


@frozen
class Listings:
    """Puts runs together from what the agent remembers.

    Attributes:
        card: Who we are.
        others: What others published, as `names` choose; None where nobody tells us.
        removals: Which runs are removed; None where none can be.
        held: What adds to a run who has copies of what its jobs kept; None where nobody else has.
    """

    records: Records
    driven: DrivenRuns
    tags: Tags
    card: Callable[[], PeerCard]
    others: Callable[[tuple[str, ...]], tuple[Telling, ...]] | None = None
    removals: Removals | None = None
    held: Callable[[], Callable[[RunRecord], RunRecord]] | None = None

    def runs(
        self, names: tuple[str, ...], reuse_keys: tuple[Digest, ...] = (), before: str = ""
    ) -> Iterator[RunRecord]:
        """Runs newest first, each put together when it is taken: those named by id or by the
        beginning of their name.

        Without names the newest ones and those that a tag names: an answer has a bounded size. With
        reuse keys nothing but the runs that have jobs with one of them here.

        Args:
            before: Only runs with ids before this one; "" for all.
        """
        executed, driven = self._meant(names, reuse_keys)
        known = sorted({*executed, *driven} - self.hidden(), reverse=True)
        told = (
            _merged(
                self.driven.told(run_id) if run_id in driven else None,
                self._readable(run_id) if run_id in executed else None,
            )
            for run_id in known
            if not before or run_id < before
        )
        return map(self._with_copies(), (run for run in told if run is not None))

    def beside(self, names: tuple[str, ...]) -> Listing:
        """All else that is told."""
        tellings = self.others(names) if self.others is not None else ()
        copies = self._with_copies()
        others = tuple(replace(one, runs=tuple(map(copies, one.runs))) for one in tellings)
        removed = self.removals.all(MOST_RUNS) if self.removals is not None else ()
        tags = self.tags.all()
        return Listing((), tags, others, for_all=self.others is not None, removed=removed)

    def hidden(self) -> frozenset[RunId]:
        """Runs of which nothing is told any more."""
        return self.removals.hidden() if self.removals is not None else frozenset()

    def run(self, run_id: RunId) -> RunRecord | None:
        """A run as far as it is known here first-hand, a hidden one too."""
        driven = self.driven.told(run_id)
        executed = self._executed(run_id) if self.records.among([run_id]) else None
        return _merged(driven, executed)

    def run_ids(self) -> list[RunId]:
        """The newest runs that are known here first-hand."""
        known = {*self.records.run_ids(most=MOST_RUNS), *self.driven.run_ids(most=MOST_RUNS)}
        return sorted(known, reverse=True)[:MOST_RUNS]

    def _with_copies(self) -> Callable[[RunRecord], RunRecord]:
        return self.held() if self.held is not None else lambda run: run

    def _meant(
        self, names: tuple[str, ...], reuse_keys: tuple[Digest, ...]
    ) -> tuple[set[RunId], set[RunId]]:
        """Runs that were executed here, and those that were driven here."""
        if reuse_keys:
            return set(self.records.reusable(reuse_keys, MOST_RUNS)), set()
        executed = set(self.records.run_ids(names, MOST_RUNS))
        if not names:
            newest = sorted(self.tags.all(), key=lambda tag: tag.at)[-MOST_RUNS:]
            executed |= set(self.records.among([tag.run_id for tag in newest if tag.run_id]))
        return executed, set(self.driven.run_ids(names, MOST_RUNS))

    def _readable(self, run_id: RunId) -> RunRecord | None:
        """A run as it runs here; None if a row of it cannot be read, which hides no other run."""
        try:
            return self._executed(run_id)
        except MeshError as error:
            log.warning("what runs here of run %s cannot be read: %s", run_id, error)
            return None

    def _executed(self, run_id: RunId) -> RunRecord:
        attempts = self.records.of_run(run_id)
        newest = [list(group)[-1] for _, group in groupby(attempts, lambda each: each.key.job)]
        spec = newest[-1].spec
        return RunRecord(
            run_id=run_id,
            run_name=spec.run_name,
            target=spec.target or spec.workflow or spec.provider,
            owner=spec.owner,
            submitted_at=spec.submitted_at,
            job_count=max(spec.job_count, newest[-1].key.job + 1),
            revision=spec.revision,
            variables=spec.variables,
            jobs=tuple(self._job(each) for each in newest),
            given_by=given.peer if (given := newest[-1].given) is not None else PeerId(""),
        )

    def _job(self, accepted: Accepted) -> JobRecord:
        card, spec = self.card(), accepted.spec
        history = self.records.history(spec.key)
        first = StateChange(spec.key, JobState.SUBMITTED, spec.submitted_at)
        artifacts = tuple(self.records.artifacts(spec.key))
        return JobRecord(
            key=spec.key,
            workflow=spec.workflow,
            provider=spec.provider,
            state=history[-1] if history else first,
            agent_id=card.peer_id,
            agent_name=card.name,
            gpu_uuids=accepted.gpu_uuids,
            artifacts=artifacts,
            copies=_copies(artifacts, Source(card.peer_id, card.addresses)),
            again=_is_tried_again(accepted),
            reuse_key=accepted.reuse_key,
            apps=spec.app_names,
        )


def _is_tried_again(accepted: Accepted) -> bool:
    """Whether a job that ended is to be tried again, as far as its agent was told."""
    fin, order = accepted.fin, accepted.order
    wanted = order is not None and order.reason != RECLAIMED
    return fin is not None and not wanted and again_after(accepted.spec, fin.state)


def _copies(artifacts: Iterable[ArtifactSaved], here: Source) -> tuple[Source, ...]:
    return (here,) if any(artifact.complete for artifact in artifacts) else ()


def _merged(driven: RunRecord | None, executed: RunRecord | None) -> RunRecord | None:
    """A run that is driven here, with what is known first-hand of its jobs that run here."""
    if driven is None or executed is None:
        return driven or executed
    jobs = {job.key.job: job for job in driven.jobs}
    for job in executed.jobs:
        told = jobs.get(job.key.job)
        if told is None or told.key.attempt <= job.key.attempt:
            jobs[job.key.job] = job
    return replace(driven, jobs=tuple(jobs[index] for index in sorted(jobs)))
