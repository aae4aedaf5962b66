"""How a run is told of whose jobs do not fit into one record: on sheets of some jobs each. Pure.

Its own record has no jobs then; `joined` puts both together again. A job's index says on which
sheet it is, so that a job that changes costs one of them and not all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice

from dstack_agent.wire import stored
from dstack_mesh.frozen import frozen
from dstack_mesh.records.record import PAYLOAD_BYTES
from dstack_scheduler.job import JobRecord, RunRecord
from dstack_scheduler.wire.fields import ITEMS

JOBS_TOGETHER = 64
"""Jobs that share a sheet if they fit. More: fewer records; fewer: a change costs less."""

MOST_BYTES = 1 << 20
"""Of the sheets of one run: all runs of an agent share 2.5 MiB, those with a tag 1.5 MiB."""

LAST_JOBS = 100
"""So many are told of a run that is larger, without what they kept."""


@frozen
class Written:
    """What is told of a run.

    Attributes:
        run: The run; without jobs if there are sheets.
        sheets: By key, which begins with the run's id.
    """

    run: bytes
    sheets: Mapping[str, bytes]


def written(record: RunRecord) -> Written | None:
    """A run as it is told, without its variables where there is no room for them.

    None for one of which even the last jobs do not fit.
    """
    lighter = replace(record, variables={})
    for whole in (record, lighter):
        if _fits(payload := stored.pack_run(whole)):
            return Written(payload, {})
    sheets = dict(_sheets(record))
    if sum(map(len, sheets.values())) > MOST_BYTES:
        sheets = {}
        lighter = replace(lighter, jobs=tuple(map(_bare, record.jobs[-LAST_JOBS:])))
        told = (lighter,)
    else:
        told = (replace(record, jobs=()), replace(lighter, jobs=()))
    payload = next(filter(_fits, map(stored.pack_run, told)), None)
    return Written(payload, sheets) if payload is not None else None


def joined(run: RunRecord, sheets: Iterable[Iterable[JobRecord]]) -> RunRecord:
    """A run with the jobs of its sheets, in the order of their keys.

    A job that kept very much is on several of them.
    """
    pieces: dict[int, list[JobRecord]] = {}
    for job in chain(run.jobs, *sheets):
        held = pieces.setdefault(job.key.job, [])
        if held and held[0].key.attempt < job.key.attempt:
            held.clear()
        if not held or held[0].key == job.key:
            held.append(job)
    return replace(run, jobs=tuple(_whole(pieces[index]) for index in sorted(pieces)))


def run_of(key: str) -> str:
    """The run that a record tells of whose key begins with a run's id."""
    return key.partition("/")[0]


def _sheets(record: RunRecord) -> Iterator[tuple[str, bytes]]:
    jobs = sorted(record.jobs, key=lambda job: job.key.job)
    for number, together in groupby(jobs, lambda job: job.key.job // JOBS_TOGETHER):
        yield from _split(f"{record.run_id}/{number:03}", list(together))


def _split(key: str, jobs: Sequence[JobRecord]) -> Iterator[tuple[str, bytes]]:
    """Jobs as bytes, in halves as often as it takes; what fits nowhere is left out."""
    if _fits(payload := stored.pack_sheet(jobs)):
        yield key, payload
        return
    for letter, half in zip("ab", _halves(jobs), strict=False):
        yield from _split(f"{key}{letter}", half)


def _halves(jobs: Sequence[JobRecord]) -> Sequence[Sequence[JobRecord]]:
    if len(jobs) > 1:
        return jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]
    [job] = jobs
    kept, middle = job.artifacts, len(job.artifacts) // 2
    halves = (kept[:middle], kept[middle:]) if middle else ()
    return [[replace(job, artifacts=half)] for half in halves]


def _whole(pieces: Sequence[JobRecord]) -> JobRecord:
    if len(pieces) == 1:
        return pieces[0]
    kept = islice(chain.from_iterable(piece.artifacts for piece in pieces), ITEMS)
    return replace(pieces[0], artifacts=tuple(kept))


def _bare(job: JobRecord) -> JobRecord:
    return replace(job, artifacts=(), copies=())


def _fits(payload: bytes) -> bool:
    return len(payload) <= PAYLOAD_BYTES
