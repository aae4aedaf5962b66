"""What a run of another home is made of: as its submitter signed it and its agents took it.

Enough to start one job of it again, or the nodes of one. In which order several ran is known in the
home that submitted them alone, and so is what never began.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from dstack_cli.credentials import Credentials
from dstack_cli.orders import Ordered
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Reach
from dstack_cli.verifying import Attempt, choose
from dstack_mesh.identity import Identity
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import Input, JobKey, JobSpec, RunRecord, Source
from dstack_scheduler.proving import Standing


async def attested(
    reach: Reach, picture: RunPicture, pictures: Iterable[RunPicture]
) -> Ordered | None:
    """The run with all of its jobs; None where not all of it is proved.

    Args:
        pictures: All runs: who has what the jobs were given is read there.
    """
    record = picture.record
    told = await reach.evidence(record.run_id)
    jobs = {job.key: job for job in record.jobs}
    found = await asyncio.to_thread(choose, (one for each in told for one in each.attempts), jobs)
    own = (await asyncio.to_thread(Identity.load_or_make, reach.home)).peer_id
    credentials = await asyncio.to_thread(Credentials.of, reach.home, own)
    proved = {key: one for key, one in found.items() if _is_of_members(one, credentials)}
    return order_of(record, proved, _holders(pictures))


def order_of(
    record: RunRecord,
    found: Mapping[JobKey, Attempt],
    holders: Mapping[Digest, tuple[Source, ...]],
) -> Ordered | None:
    """The same of what was found. Pure."""
    newest = [found.get(job.key) for job in sorted(record.jobs, key=lambda job: job.key.job)]
    specs = [_spec(attempt, holders) for attempt in newest]
    known = [spec for spec in specs if spec is not None]
    if [spec.key.job for spec in known] != list(range(record.job_count)):
        return None
    if any(spec.makes for spec in known):  # what it makes is known once it ran
        return None
    return Ordered(replace(record, given_by=PeerId("")), tuple(map(DrivenJob, known)))


def _is_of_members(attempt: Attempt, credentials: Credentials) -> bool:
    """Whether everything that is signed holds, and whoever signed it was a member then."""
    walked = attempt.walked
    if walked is None:
        return False
    facts = [*attempt.facts, *credentials.of_signers(walked, walked.submitter)]
    return all(fact.standing.holds for fact in facts)


def _spec(attempt: Attempt | None, holders: Mapping[Digest, tuple[Source, ...]]) -> JobSpec | None:
    """What a job is, if its submitter signed it and the agent's chain holds."""
    if attempt is None or attempt.walked is None:
        return None
    signed = [fact.standing for fact in attempt.facts if fact.what == "specification"]
    if signed != [Standing.PROVED]:
        return None
    taken = attempt.walked.taken
    inputs = (_had(each, holders) for each in taken.inputs)
    return replace(taken.specification, inputs=tuple(inputs))


def _had(what: Input, holders: Mapping[Digest, tuple[Source, ...]]) -> Input:
    return replace(what, sources=holders.get(what.digest, ()))


def _holders(pictures: Iterable[RunPicture]) -> dict[Digest, tuple[Source, ...]]:
    """Who has what any run kept."""
    found: dict[Digest, tuple[Source, ...]] = {}
    for job in (job for picture in pictures for job in picture.record.jobs):
        own = (Source(job.agent_id),) if job.agent_id is not None else ()
        for artifact in job.artifacts:
            found[artifact.digest] = job.copies or own
    return found
