"""Verifies a run: gathers what is signed of it, walks it here alone, says what is proved."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from dstack_cli.credentials import Credentials
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Document, Json
from dstack_cli.picture import RunPicture
from dstack_cli.reach import Private, Reach, carry_out, chosen_run, reaching
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import PeerId
from dstack_scheduler.evidence import Evidence
from dstack_scheduler.job import JobKey, JobRecord
from dstack_scheduler.proving import Fact, Reading, Standing, Walked, about, prove_chain
from dstack_scheduler.wire.evidence import read_event, read_specification

SCHEMA = "dstack.verification/v1"

READING = Reading(read_event, read_specification)

DOES_NOT_HOLD = 1


@frozen
class Attempt:
    """What was found of an attempt.

    Attributes:
        walked: None if the chain does not hold.
    """

    evidence: Evidence
    walked: Walked | None
    facts: Sequence[Fact]

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Of several tellings of one attempt the highest counts: a forged one hides no true one."""
        holds = all(fact.standing.holds for fact in self.facts)
        return holds, self.walked is not None, len(self.evidence.events)


def verify_run(home: Home, run: str, as_json: bool) -> int:
    """Prints one line for each thing that was looked at; returns the exit code."""

    async def work() -> tuple[RunPicture, list[Fact], Mapping[PeerId, str]]:
        async with reaching(home, Private.IF_HISTORY) as reach:
            picture = chosen_run(run, await reach.runs())
            await reach.learn_of_members(await reach.known())
            own = (await asyncio.to_thread(Identity.load_or_make, home)).peer_id
            credentials = await asyncio.to_thread(Credentials.of, home, own)
            facts = await _facts(reach, picture, credentials)
            return picture, facts, reach.names() | credentials.names()

    picture, facts, names = carry_out(work())
    holds = all(fact.standing.holds for fact in facts)
    fields: dict[str, Json] = {
        "schema": SCHEMA,
        "run": picture.record.run_name,
        "run_id": picture.record.run_id,
        "holds": holds,
        "facts": [_fields(fact) for fact in facts],
    }
    text = "\n".join(_line(fact, names) for fact in facts)
    chosen(as_json).document(Document(fields, text, picture.record.run_name))
    return 0 if holds else DOES_NOT_HOLD


async def _facts(reach: Reach, picture: RunPicture, credentials: Credentials) -> list[Fact]:
    from dstack_cli.holdings import of_log, of_manifests

    told = await reach.evidence(picture.record.run_id)
    jobs = {job.key: job for job in picture.record.jobs}
    found = await asyncio.to_thread(choose, (one for each in told for one in each.attempts), jobs)
    facts = credentials.of_roster()
    if any(each.more for each in told):
        sentence = "more is signed than one answer holds"
        facts.append(Fact("", "events", Standing.ABSENT, sentence))
    for key in sorted({*found, *jobs}):
        attempt = found.get(key)
        if attempt is None:
            facts.append(without_evidence(jobs[key]))
            continue
        facts += attempt.facts
        if attempt.walked is not None:
            walked = attempt.walked
            facts += credentials.of_signers(walked, walked.submitter)
            facts += await asyncio.to_thread(of_manifests, reach, walked)
            ours = jobs.get(key) if walked.agent == credentials.own else None
            facts += await of_log(reach, walked, ours)
    return facts


def choose(told: Iterable[Evidence], jobs: Mapping[JobKey, JobRecord]) -> dict[JobKey, Attempt]:
    """What counts of each attempt, of everything that was told of it. Blocks."""
    tellings: dict[JobKey, list[Attempt]] = defaultdict(list)
    for evidence in told:
        job = jobs.get(evidence.key)
        expected, agent = (job.state, job.agent_id) if job is not None else (None, None)
        walked, facts = prove_chain(evidence, READING, expected, agent)
        tellings[evidence.key].append(Attempt(evidence, walked, facts))
    return {key: max(each, key=lambda one: one.rank) for key, each in tellings.items()}


def without_evidence(job: JobRecord) -> Fact:
    """What is to be said of an attempt of which nothing signed is known."""
    if job.agent_id is None:
        return Fact(about(job.key), "events", Standing.OPEN, "no agent has had it")
    sentence = f"nothing signed by {job.agent_id} is known here"
    return Fact(about(job.key), "events", Standing.ABSENT, sentence)


def _fields(fact: Fact) -> dict[str, Json]:
    return {
        "about": fact.about,
        "what": fact.what,
        "standing": fact.standing.value,
        "sentence": fact.sentence,
    }


def _line(fact: Fact, names: Mapping[PeerId, str]) -> str:
    sentence = fact.sentence
    for peer, name in names.items():
        sentence = sentence.replace(peer, f"{name} ({peer[:8]}…)")
    where = f"{fact.about}: " if fact.about else ""
    return f"{fact.standing.value:<7} {where}{fact.what}: {sentence}"
