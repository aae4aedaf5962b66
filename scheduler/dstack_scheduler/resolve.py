"""Finds what exists already: the run behind a tag or the newest one of a workflow, as inputs.

Tags and runs come from the listings of many agents, each with what it passes on of others. Of
statements about one tag the newest counts, ties by the run's id; of runs the newest by time of
submission, ties by id. So every peer that heard the same says the same, whatever the order in which
it heard.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dstack_mesh.faults import Missing, Refused
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import Input, JobRecord, JobState, RunRecord, Source, TagRecord
from dstack_scheduler.plan import Reuse
from dstack_scheduler.removal import removed
from dstack_scheduler.workflow.problem import did_you_mean

LATEST = "latest"
SHOWN = 5
NONE: frozenset[RunId] = frozenset()


def resolve(reuse: Reuse, repo: str, listings: Iterable[Listing]) -> tuple[Input, ...]:
    """The artifacts that a reuse stands for, in the order of the run's jobs.

    Args:
        repo: Repository of the run that asks; the reuse may name another.

    Raises:
        Missing: There is no such run or repository, or it kept nothing; says what there is.
        Refused: Several repositories have that name, or the run is not over yet.
    """
    known = list(listings)
    runs = merged_runs(known)
    tags = merged_tags(known)
    if reuse.repo:
        repo = repository_of(reuse.repo, repositories(runs.values(), tags.values()))
    gone = removed_runs(known)
    listed = {run_id: run for run_id, run in runs.items() if run_id not in gone}
    run = _chosen(reuse, repo, runs, listed, tags)
    if run is None:
        raise _missing(reuse, repo, listed, tags)
    jobs = [job for job in run.jobs if reuse.workflow in ("", job.workflow)]
    if not reuse.workflow and not reuse.run:
        jobs = [job for job in jobs if job.workflow == run.target] or jobs
    inputs = tuple(each for job in jobs for each in inputs_of(job, run))
    if _goes_on(jobs) or (not inputs and len(run.jobs) < run.job_count):
        raise _not_done(reuse, run)
    if not inputs:
        raise Missing(
            f"{_text(reuse)} kept no artifacts.",
            f"It is run {run.run_name}.",
            "Give its workflow `artifacts`, or take another run.",
            code="no-artifacts",
        )
    return tuple(replace(each, path=_below(reuse.below, each.path)) for each in inputs)


def inputs_of(job: JobRecord, run: RunRecord) -> tuple[Input, ...]:
    """What a job kept, as inputs of another one."""
    own = (Source(job.agent_id),) if job.agent_id is not None else ()
    return tuple(
        Input(
            digest=artifact.digest,
            path=artifact.path,
            sources=job.copies or own,
            origin=f"{run.run_name} ({job.workflow})" if job.workflow else run.run_name,
            size_bytes=artifact.size_bytes,
        )
        for artifact in job.artifacts
        if artifact.complete
    )


def merged_tags(listings: Iterable[Listing]) -> dict[tuple[str, str], TagRecord]:
    """The statement that counts for each (repository, tag); names taken back are in it."""
    newest: dict[tuple[str, str], TagRecord] = {}
    for tag in (tag for listing in flattened(listings) for tag in listing.tags):
        place = (tag.repo, tag.tag)
        if place not in newest or _tag_rank(tag) > _tag_rank(newest[place]):
            newest[place] = tag
    return newest


def rival_tags(listings: Iterable[Listing]) -> dict[tuple[str, str], tuple[TagRecord, ...]]:
    """Of each (repository, tag) the claims that lost against one that did not know of them."""
    known = list(listings)
    newest = merged_tags(known)
    beside: dict[tuple[str, str], dict[RunId, TagRecord]] = {}
    for tag in (tag for listing in flattened(known) for tag in listing.tags):
        place = (tag.repo, tag.tag)
        if tag.run_id is not None and newest[place].is_beside(tag):
            beside.setdefault(place, {})[tag.run_id] = tag
    return {
        place: tuple(sorted(claims.values(), key=_tag_rank)) for place, claims in beside.items()
    }


def merged_runs(listings: Iterable[Listing]) -> dict[RunId, RunRecord]:
    """Each run with the newest of what anybody knows of its jobs."""
    heard: dict[RunId, list[RunRecord]] = {}
    for run in (run for listing in flattened(listings) for run in listing.runs):
        heard.setdefault(run.run_id, []).append(run)
    return {run_id: _merged(records) for run_id, records in heard.items()}


def removed_runs(listings: Sequence[Listing]) -> frozenset[RunId]:
    """Runs that are removed: they count no more but behind a tag."""
    said = flattened(listings)
    removals = [one for listing in said for one in listing.removed]
    # Most homes have removed nothing.
    return (
        removed((run for listing in said for run in listing.runs), removals) if removals else NONE
    )


def repositories(runs: Iterable[RunRecord], tags: Iterable[TagRecord]) -> set[str]:
    """Of which there are runs or tags."""
    return {*(run.revision.repo for run in runs), *(tag.repo for tag in tags)} - {""}


def repository_of(name: str, known: Iterable[str]) -> str:
    """The repository that "owner/repo" means, as runs name it: with its host.

    Raises:
        Missing: There is none; says which there are.
        Refused: Several hosts have one.
    """
    wanted = f"/{name}".casefold()
    among = sorted(known)
    found = [one for one in among if f"/{one}".casefold().endswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(
            f"Several repositories are called {name}.",
            f"They are {', '.join(found[:SHOWN])}.",
            "Give the run's name, or tag the run in one of them alone.",
            "ambiguous-repository",
        )
    raise Missing(
        f"Nobody has runs of the repository {name}.",
        f"There are runs of {', '.join(among[:SHOWN])}." if among else "There are no runs yet.",
        "dstack ps -a",
        "no-such-repository",
    )


def flattened(listings: Iterable[Listing]) -> list[Listing]:
    """What agents know first-hand, and beside it what they pass on of others."""
    found: list[Listing] = []
    for listing in listings:
        others = (Listing(one.runs, one.tags, removed=one.removed) for one in listing.others)
        found += [listing, *others]
    return found


def _merged(records: Sequence[RunRecord]) -> RunRecord:
    jobs: dict[int, JobRecord] = {}
    copies: dict[int, set[Source]] = {}
    for job in (job for record in records for job in record.jobs):
        index = job.key.job
        copies.setdefault(index, set()).update(job.copies)
        if index not in jobs or _job_rank(job) > _job_rank(jobs[index]):
            jobs[index] = job
    whole = max(records, key=lambda record: (record.job_count, record.target, record.owner))
    return replace(
        whole,
        jobs=tuple(
            replace(jobs[index], copies=tuple(sorted(copies[index], key=_source_rank)))
            for index in sorted(jobs)
        ),
    )


def _below(folder: str, path: str) -> str:
    """Where an artifact goes that is laid below a folder."""
    return f"{folder}/{path.removeprefix('~').lstrip('/')}" if folder else path


def _chosen(
    reuse: Reuse,
    repo: str,
    runs: dict[RunId, RunRecord],
    listed: dict[RunId, RunRecord],
    tags: dict[tuple[str, str], TagRecord],
) -> RunRecord | None:
    """The run that is meant; one that was removed is found behind a tag alone."""
    if reuse.run:
        named = [run for run in listed.values() if run.run_name == reuse.run]
        return max(named, key=lambda run: (run.submitted_at, run.run_id), default=None)
    run = _tagged(reuse, repo, runs, tags) if reuse.tag else None
    if run is None and reuse.tag in ("", LATEST) and not _is_given(reuse, repo, tags):
        return _newest(reuse.workflow, repo, listed)
    return run


def _tagged(
    reuse: Reuse,
    repo: str,
    runs: dict[RunId, RunRecord],
    tags: dict[tuple[str, str], TagRecord],
) -> RunRecord | None:
    tag = tags.get((repo, reuse.tag))
    return runs.get(tag.run_id) if tag is not None and tag.run_id is not None else None


def _is_given(reuse: Reuse, repo: str, tags: dict[tuple[str, str], TagRecord]) -> bool:
    """Whether the name is somebody's word: then the newest run does not take its place."""
    tag = tags.get((repo, reuse.tag))
    return bool(reuse.tag) and tag is not None and tag.run_id is not None


def _newest(workflow: str, repo: str, runs: dict[RunId, RunRecord]) -> RunRecord | None:
    done = [run for run in runs.values() if run.revision.repo == repo and _is_done(run, workflow)]
    return max(done, key=lambda run: (run.submitted_at, run.run_id), default=None)


def _is_done(run: RunRecord, workflow: str) -> bool:
    """Whether the run's jobs of a workflow, or all of them, are known to be done."""
    jobs = [job for job in run.jobs if workflow in ("", job.workflow)]
    whole = bool(workflow) or len(run.jobs) >= run.job_count
    return whole and bool(jobs) and all(job.state.state is JobState.DONE for job in jobs)


def _goes_on(jobs: Iterable[JobRecord]) -> bool:
    return any(job.again or not job.state.state.ended for job in jobs)


def _not_done(reuse: Reuse, run: RunRecord) -> Refused:
    """A tag may be given before there is anything behind it: as its run is submitted."""
    return Refused(
        f"{_text(reuse)} is not done yet.",
        f"It is run {run.run_name}, which goes on; what it keeps counts once it ended.",
        f"dstack wait {run.run_name}   (and then the same again)",
        code="not-done-yet",
    )


def _missing(
    reuse: Reuse,
    repo: str,
    runs: dict[RunId, RunRecord],
    tags: dict[tuple[str, str], TagRecord],
) -> Missing:
    where = repo or "this folder"
    if reuse.run:
        return Missing(
            f"There is no run {reuse.run}.",
            "Nobody who answers knows it.",
            "dstack ps -a",
            code="no-such-run",
        )
    if reuse.tag and reuse.tag != LATEST:
        names = sorted(
            tag.tag for tag in tags.values() if tag.repo == repo and tag.run_id is not None
        )
        known = (
            f"Tags of {where}: {', '.join(names[:SHOWN])}." if names else f"{where} has no tags."
        )
        return Missing(
            f"There is no run behind {_text(reuse)}.",
            known,
            did_you_mean(reuse.tag, names, f"Tag one with: dstack tag {reuse.tag} RUN"),
            code="no-such-tag",
        )
    found = sorted(
        {job.workflow for run in runs.values() if run.revision.repo == repo for job in run.jobs}
        - {""}
    )
    known = f"There are runs of {', '.join(found[:SHOWN])}." if found else "There are no runs yet."
    return Missing(
        f"No run of {reuse.workflow or 'any workflow'} is done in {where}.",
        known,
        f"Run it first: dstack run {reuse.workflow}" if reuse.workflow else "",
        code="no-such-run",
    )


def _text(reuse: Reuse) -> str:
    if reuse.text or reuse.run:
        return reuse.text or reuse.run
    return f"{reuse.workflow}:{reuse.tag}" if reuse.tag else reuse.workflow


def _tag_rank(tag: TagRecord) -> tuple[object, ...]:
    return (tag.at, tag.run_id or "")


def _job_rank(job: JobRecord) -> tuple[object, ...]:
    return (job.key.attempt, job.state.state.ended, job.state.at, job.state.state.value)


def _source_rank(source: Source) -> tuple[str, tuple[str, ...]]:
    return (source.peer_id, source.addresses)
