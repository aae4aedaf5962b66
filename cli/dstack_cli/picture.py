"""All runs as several agents tell them, put together: pure, and the same whoever answered first.

An agent that answers counts for itself. Of one that does not, the newest word that others pass on
counts, as if it had said so itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from dstack_cli.remembered import Submitted
from dstack_cli.remotes.places import is_elsewhere
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId, RunName
from dstack_scheduler.agent_port import Listing, Telling
from dstack_scheduler.job import (
    JobRecord,
    JobState,
    Revision,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.resolve import merged_tags, removed_runs

PROMISED = 2
"""Copies of what a job kept, where two agents are there."""

_ORDER = {state: place for place, state in enumerate(JobState)}
_ACTIVE = (
    JobState.ABORTING,
    JobState.STOPPING,
    JobState.SAVING,
    JobState.RUNNING,
    JobState.PREPARING,
)
_BAD_ENDS = (JobState.FAILED, JobState.ABORTED, JobState.STOPPED, JobState.LOST)


@frozen
class Away:
    """An agent that does not answer, and when it was last heard; None if nobody knows.

    `revoked`: the mesh shut it out since.
    """

    agent_id: PeerId
    name: str
    heard_at: datetime | None = None
    revoked: bool = False


@frozen
class RunPicture:
    """A run as far as anybody who answered knows it.

    Attributes:
        record: The run, each job with its newest attempt.
        tags: Names it has, newest first.
        heard: Whether an agent told of it now; otherwise only this home remembers it.
        tellers: Agents that know of it, those that have its jobs first.
        away: Agents that have its jobs and do not answer: what they said last is shown.
        kept: Whether a remote has it, or it was pulled: it ended, and never changes again.
        removed: Whether somebody removed it: what it kept is there for as long as a tag names it.
        copies: Copies within reach of what it kept, of the artifact that has the fewest; None if it
            kept nothing.
        promised: So many there should be.
        ours: Whether this home submitted it.
    """

    record: RunRecord
    tags: tuple[str, ...] = ()
    heard: bool = True
    tellers: tuple[PeerId, ...] = ()
    away: tuple[Away, ...] = ()
    kept: bool = False
    removed: bool = False
    copies: int | None = None
    promised: int = 1
    ours: bool = False

    @property
    def stale(self) -> bool:
        """Whether some of it is only the last word of an agent that does not answer."""
        return bool(self.away)

    def is_kept(self, job: JobRecord) -> bool:
        """Whether a job that ended is known from outside the mesh, and not from its agent."""
        return job.state.state.ended and self.kept and job.agent_id not in self.tellers

    def away_of(self, agent_id: PeerId | None) -> Away | None:
        """The agent, if it is one of those that do not answer."""
        return next((one for one in self.away if one.agent_id == agent_id), None)

    @property
    def status(self) -> JobState:
        return status_of(self.record) if self.heard else JobState.SUBMITTED

    @property
    def deciding(self) -> StateChange | None:
        """The end of the job that decided the run; None while it goes on."""
        return deciding_end(self.record)


def put_together(
    listings: Sequence[tuple[PeerId, Listing]], remembered: Iterable[Submitted] = ()
) -> list[RunPicture]:
    """The runs that are listed, newest first."""
    return [one for one in everything(listings, remembered) if not one.removed]


def everything(
    listings: Sequence[tuple[PeerId, Listing]], remembered: Iterable[Submitted] = ()
) -> list[RunPicture]:
    """All runs, those that only a tag holds too. Newest first.

    An agent that has one job of a run may not know of the others.
    """
    told: dict[RunId, list[tuple[PeerId, RunRecord]]] = {}
    for peer_id, listing in words(listings):
        for run in listing.runs:
            told.setdefault(run.run_id, []).append((peer_id, run))
    tags = tags_by_run(listing for _, listing in listings)
    ours = {RunId(run.run_id): run for run in remembered}
    away = absentees(listings)
    agents = {peer for peer, _ in words(listings) if not is_elsewhere(peer)} - away.keys()
    promised = min(PROMISED, max(len(agents), 1))
    pictures = [_picture(tellings, tags, ours, away) for tellings in told.values()]
    pictures = [replace(one, promised=promised) for one in pictures]
    said = {one.run_id for _, listing in listings for one in listing.removed}
    pictures += [_unheard(run) for run_id, run in ours.items() if run_id not in {*told, *said}]
    gone = removed_runs([listing for _, listing in listings])
    pictures = [replace(one, removed=one.record.run_id in gone) for one in pictures]
    return sorted(
        pictures, key=lambda run: (run.record.submitted_at, run.record.run_id), reverse=True
    )


def words(listings: Sequence[tuple[PeerId, Listing]]) -> list[tuple[PeerId, Listing]]:
    """What each agent says: by itself where it answered, else as another one passes it on."""
    direct = {peer_id for peer_id, _ in listings}
    passed_on: dict[PeerId, Telling] = {}
    for telling in (one for _, listing in listings for one in listing.others):
        held = passed_on.get(telling.agent_id)
        if telling.agent_id not in direct and (held is None or telling.said_at > held.said_at):
            passed_on[telling.agent_id] = telling
    others = [
        (peer, Listing(one.runs, one.tags, removed=one.removed))
        for peer, one in sorted(passed_on.items())
    ]
    return [*listings, *others]


def absentees(listings: Sequence[tuple[PeerId, Listing]]) -> dict[PeerId, Away]:
    """Agents that answer neither us nor anybody who answered us."""
    direct = {peer_id for peer_id, _ in listings}
    away: dict[PeerId, Away] = {}
    answering: set[PeerId] = set()
    for telling in (one for _, listing in listings for one in listing.others):
        peer = telling.agent_id
        held = away.get(peer)
        if held is None or held.heard_at is None or telling.heard_at > held.heard_at:
            name = telling.agent_name or peer[:8]
            away[peer] = Away(peer, name, telling.heard_at, telling.revoked)
        if telling.answers:
            answering.add(peer)
    return {peer: one for peer, one in away.items() if peer not in direct | answering}


def current_tags(listings: Iterable[Listing]) -> list[TagRecord]:
    """The names that hold now, newest first."""
    kept = [tag for tag in merged_tags(listings).values() if tag.run_id is not None]
    return sorted(kept, key=lambda tag: (tag.at, tag.tag), reverse=True)


def tags_by_run(listings: Iterable[Listing]) -> dict[RunId, tuple[str, ...]]:
    """The names of each run."""
    found: dict[RunId, tuple[str, ...]] = {}
    for tag in current_tags(listings):
        if tag.run_id is not None:
            found[tag.run_id] = (*found.get(tag.run_id, ()), tag.tag)
    return found


def status_of(run: RunRecord) -> JobState:
    """One word for a run: what goes on now, else how it ended, else that it waits."""
    states = [JobState.WAITING if job.again else job.state.state for job in run.jobs]
    for state in _ACTIVE:
        if state in states:
            return state
    for state in _BAD_ENDS:
        if state in states:
            return state
    if run.job_count and len(states) == run.job_count and set(states) == {JobState.DONE}:
        return JobState.DONE
    return JobState.WAITING


def deciding_end(run: RunRecord) -> StateChange | None:
    """The end that decides a run that ended: the first bad one, else the last."""
    if not status_of(run).ended:
        return None
    bad = [job.state for job in run.jobs if job.state.state in _BAD_ENDS]
    return bad[0] if bad else max(run.jobs, key=lambda job: job.key.job).state


def _picture(
    tellings: Sequence[tuple[PeerId, RunRecord]],
    tags: dict[RunId, tuple[str, ...]],
    ours: dict[RunId, Submitted],
    silent: dict[PeerId, Away],
) -> RunPicture:
    jobs: dict[int, tuple[PeerId, JobRecord]] = {}
    copies: dict[int, dict[PeerId, Source]] = {}
    for teller, run in tellings:
        for job in run.jobs:
            copies.setdefault(job.key.job, {}).update({s.peer_id: s for s in job.copies})
            held = jobs.get(job.key.job)
            if held is None or _knows_more((teller, job), held):
                jobs[job.key.job] = (teller, job)
    newest = max((run for _, run in tellings), key=lambda run: (run.job_count, len(run.jobs)))
    known = ours.get(newest.run_id)
    if known is not None:
        count = max(newest.job_count, known.job_count)
        newest = replace(newest, target=known.target, job_count=count)
    whole = tuple(
        replace(job, copies=tuple(copies[index][peer] for peer in sorted(copies[index])))
        for index, (_, job) in sorted(jobs.items())
    )
    having = [job.agent_id for job in whole if job.agent_id is not None]
    tellers = [peer_id for peer_id, _ in tellings]
    away = tuple(silent[peer_id] for peer_id in dict.fromkeys(having) if peer_id in silent)
    return RunPicture(
        record=replace(newest, jobs=whole),
        tags=tags.get(newest.run_id, ()),
        tellers=tuple(dict.fromkeys([*(p for p in having if p in tellers), *sorted(tellers)])),
        away=away,
        kept=any(is_elsewhere(peer_id) for peer_id in tellers),
        copies=_copies(whole, silent),
        ours=known is not None,
    )


def _copies(jobs: Iterable[JobRecord], silent: Mapping[PeerId, Away]) -> int | None:
    """How many can be reached of what has the fewest."""
    kept = (job for job in jobs if job.state.state.ended and any(a.complete for a in job.artifacts))
    holders = ({job.agent_id, *(copy.peer_id for copy in job.copies)} for job in kept)
    return min((len(peers - {None} - silent.keys()) for peers in holders), default=None)


def _knows_more(one: tuple[PeerId, JobRecord], other: tuple[PeerId, JobRecord]) -> bool:
    """The newer attempt; of one attempt the word of the agent that has it; else the later state."""
    return _weight(one) > _weight(other)


def _weight(telling: tuple[PeerId, JobRecord]) -> tuple[int, bool, bool, int, str]:
    teller, job = telling
    state = job.state.state
    return (job.key.attempt, job.agent_id == teller, state.ended, _ORDER[state], teller)


def _unheard(run: Submitted) -> RunPicture:
    return RunPicture(
        record=RunRecord(
            run_id=RunId(run.run_id),
            run_name=RunName(run.run_name),
            target=run.target,
            owner=run.owner,
            submitted_at=run.at.astimezone(UTC),
            job_count=run.job_count,
            revision=Revision(repo=run.repo),
            variables=run.variables,
        ),
        heard=False,
        ours=True,
    )
