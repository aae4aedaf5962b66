"""What a run of another home is made of: what its submitter signed, and nothing else."""

from dataclasses import replace

from dstack_cli.attested import order_of
from dstack_cli.verifying import READING, Attempt
from dstack_mesh.ids import PeerId, RunName
from dstack_scheduler.evidence import Evidence
from dstack_scheduler.job import JobKey, JobRecord, JobState, RunRecord, Source
from dstack_scheduler.proving import prove_chain
from support.rosters import signer
from support.testimony import AT, KEY, change, evidence_of, spec

WS, ANA, MALLORY = signer("ws"), signer("ana"), signer("mallory")
HOLDER = Source(PeerId("h" * 32))
DONE = change(JobState.DONE, KEY, 0)
RECORD = RunRecord(
    KEY.run_id,
    RunName("calm-ibex-1"),
    "train",
    "ana@laptop",
    AT,
    1,
    jobs=(JobRecord(KEY, "train", "bash", DONE, WS.peer_id),),
    given_by=ANA.peer_id,
)


def attempt(evidence: Evidence) -> Attempt:
    walked, facts = prove_chain(evidence, READING, DONE, WS.peer_id)
    return Attempt(evidence, walked, facts)


def test_a_job_is_what_was_signed_with_what_was_laid_in_and_who_has_it() -> None:
    (given,) = spec().inputs
    made = order_of(RECORD, {KEY: attempt(evidence_of(WS, ANA))}, {given.digest: (HOLDER,)})
    assert made is not None
    (job,) = made.jobs
    assert job.spec == replace(spec(), inputs=(replace(given, sources=(HOLDER,)),))
    assert made.record.given_by == ""


def test_what_its_submitter_did_not_sign_is_not_known() -> None:
    whole = evidence_of(WS, ANA)
    forged = replace(whole, specification=evidence_of(WS, MALLORY).specification)
    for evidence in (replace(whole, specification=None), forged):
        assert order_of(RECORD, {KEY: attempt(evidence)}, {}) is None
    assert order_of(RECORD, {}, {}) is None


def test_a_run_of_which_a_job_never_began_is_not_known() -> None:
    known = {KEY: attempt(evidence_of(WS, ANA))}
    assert order_of(replace(RECORD, job_count=2), known, {}) is None
    waiting = JobRecord(JobKey(KEY.run_id, 1), "report", "bash", DONE)
    assert order_of(replace(RECORD, job_count=2, jobs=(*RECORD.jobs, waiting)), known, {}) is None
