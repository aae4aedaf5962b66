"""What is signed of an attempt cannot be changed, added to, left out or attributed otherwise."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from dstack_mesh.faults import MeshError
from dstack_mesh.ids import RunId
from dstack_mesh.signing import Signed
from dstack_scheduler.evidence import Evidence, Taken, Vouched, specification_of, taken
from dstack_scheduler.job import RELOADED, ArtifactSaved, JobKey, JobState
from dstack_scheduler.proving import Fact, Reading, Standing, prove_chain, walk
from dstack_scheduler.wire.evidence import (
    event_bytes,
    pack_evidence,
    read_event,
    read_specification,
    specification_bytes,
    unpack_evidence,
)
from support.rosters import signer
from support.testimony import (
    KEY,
    change,
    ended,
    evidence_of,
    retold,
    signed_by,
    spec,
    story,
    vouched_by,
)

READ = Reading(read_event, read_specification)
WS, ANA, MALLORY, DRIVER = signer("ws"), signer("ana"), signer("mallory"), signer("driver")
END = change(JobState.DONE, KEY, 0)


@cache
def whole() -> Evidence:
    return evidence_of(WS, ANA)


def facts(evidence: Evidence) -> list[Fact]:
    """What is said of an attempt that is known to have ended at ws."""
    return prove_chain(evidence, READ, END, WS.peer_id)[1]


def wrong(evidence: Evidence) -> str:
    """What does not hold, in words; empty if all holds."""
    return "; ".join(f"{f.what}: {f.sentence}" for f in facts(evidence) if not f.standing.holds)


def flips(signed: Signed) -> Iterator[Signed]:
    """The same with each byte of each part changed in turn."""
    for part in ("body", "key", "signature"):
        data: bytes = getattr(signed, part)
        for at in range(len(data)):
            flipped = data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :]
            yield replace(signed, **{part: flipped})


def test_a_whole_attempt_is_proved() -> None:
    walked, found = prove_chain(whole(), READ, END, WS.peer_id)
    assert [fact.standing for fact in found] == [Standing.PROVED] * 2
    assert found[0].sentence == f"signed by {ANA.peer_id}"
    assert walked is not None
    assert (walked.agent, walked.giver, walked.submitter) == (WS.peer_id, ANA.peer_id, ANA.peer_id)


def test_edits_of_the_code_are_told_beside_what_was_signed() -> None:
    said = story(ANA.peer_id)
    edited = replace(change(JobState.RUNNING), reason=RELOADED)
    said[3:3] = [edited, edited]
    evidence = retold(whole(), *signed_by(WS, [*said, Vouched(ANA.peer_id)]))
    assert [(fact.what, fact.standing) for fact in facts(evidence)][2:] == [
        ("edits", Standing.OPEN)
    ]
    assert "12:00:00" in facts(evidence)[2].sentence


@pytest.mark.parametrize("number", range(1, 9))
def test_every_flipped_byte_of_every_event_is_named(number: int) -> None:
    evidence = whole()
    before, after = evidence.events[: number - 1], evidence.events[number:]
    for flipped in flips(evidence.events[number - 1]):
        said = wrong(retold(evidence, *before, flipped, *after))
        assert f"Event {number} " in said, said


def test_every_flipped_byte_of_the_specification_is_named() -> None:
    evidence = whole()
    assert evidence.specification is not None
    for flipped in flips(evidence.specification):
        said = wrong(replace(evidence, specification=flipped))
        assert said.startswith("specification: "), said


def test_every_flipped_byte_of_what_is_published_is_noticed() -> None:
    packed = pack_evidence(whole())
    for at in range(len(packed)):
        try:
            evidence = unpack_evidence(packed[:at] + bytes([packed[at] ^ 0x01]) + packed[at + 1 :])
        except (MeshError, ValueError):
            continue
        # A change that hides a part, or one that nobody signed, is never taken for the whole.
        assert wrong(evidence) or evidence == whole(), at


def test_a_dropped_event_is_noticed_wherever_it_was() -> None:
    evidence = whole()
    for at in range(len(evidence.events)):
        assert wrong(retold(evidence, *evidence.events[:at], *evidence.events[at + 1 :])), at


def test_swapped_and_repeated_events_are_noticed() -> None:
    evidence = whole()
    for at in range(len(evidence.events) - 1):
        events = list(evidence.events)
        events[at], events[at + 1] = events[at + 1], events[at]
        assert wrong(retold(evidence, *events)), at
        assert wrong(retold(evidence, *evidence.events[: at + 1], *evidence.events[at:])), at


def test_a_chain_cut_short_is_noticed_once_its_end_is_known() -> None:
    evidence = whole()
    for length in range(len(evidence.events)):
        assert wrong(retold(evidence, *evidence.events[:length])), length
    begun = retold(evidence, *evidence.events[:3])
    _, found = prove_chain(replace(begun, specification=None), READ, None, None)
    assert [fact.standing for fact in found] == [Standing.ABSENT, Standing.OPEN]


def test_another_agents_chain_is_refused() -> None:
    forged = evidence_of(MALLORY, ANA)
    assert wrong(forged) == f"events: signed by {MALLORY.peer_id}, but {WS.peer_id} has the attempt"
    mixed = retold(whole(), *whole().events[:5], *forged.events[5:])
    assert "Event 6 " in wrong(mixed)


def test_events_of_another_attempt_are_refused() -> None:
    other = replace(KEY, attempt=2)
    events = signed_by(WS, story(ANA.peer_id, other), other)
    assert "another attempt" in wrong(retold(whole(), *events))
    inside = signed_by(WS, story(ANA.peer_id, other))
    assert "another attempt" in wrong(retold(whole(), *inside))


@pytest.mark.parametrize("other", [replace(KEY, run_id=RunId("2" * 26)), replace(KEY, job=1)])
def test_a_specification_of_another_job_proves_nothing_of_this_one(other: JobKey) -> None:
    signed = vouched_by(ANA, spec(other))
    said = [taken(spec(other), ANA.peer_id, ("GPU-1",)), *story(ANA.peer_id)[1:]]
    events = signed_by(WS, [*said, Vouched(ANA.peer_id)])
    assert "Event 1 is of another attempt" in wrong(Evidence(KEY, tuple(events), signed))


def test_a_forged_submitter_is_refused() -> None:
    said = wrong(replace(whole(), specification=vouched_by(MALLORY)))
    assert f"signed by {MALLORY.peer_id}; the agent attests that {ANA.peer_id} gave it" in said


def test_a_signature_of_another_job_is_refused() -> None:
    other = replace(spec(), commands=("rm -rf /",))
    said = wrong(replace(whole(), specification=vouched_by(ANA, other)))
    assert "what was signed is not what the agent took" in said


def test_a_signature_for_something_else_is_refused() -> None:
    evidence = whole()
    assert evidence.specification is not None
    body = evidence.specification.body
    assert wrong(replace(evidence, specification=ANA.sign("event", body)))
    event = evidence.events[0].body
    assert wrong(retold(evidence, WS.sign("specification", event), *evidence.events[1:]))


def test_a_submitter_that_died_is_named_by_the_agent_and_did_not_sign() -> None:
    evidence = Evidence(KEY, tuple(signed_by(WS, story(ANA.peer_id))))
    (unsigned, events) = facts(evidence)
    assert unsigned.standing is Standing.ABSENT
    assert unsigned.sentence == (
        f"submitted by {ANA.peer_id} (as the agent attests), not signed by it"
    )
    assert events.standing is Standing.PROVED


def test_a_signature_that_was_taken_away_is_missed() -> None:
    assert "its signature is gone" in wrong(replace(whole(), specification=None))


def test_a_run_that_was_handed_over_is_its_submitters() -> None:
    found = facts(evidence_of(WS, ANA, given_by=DRIVER))
    assert found[0].standing is Standing.PROVED
    assert found[0].sentence == f"signed by {ANA.peer_id}, handed over through {DRIVER.peer_id}"


def test_nothing_follows_the_last_word_and_it_names_nothing_new() -> None:
    late = [*story(ANA.peer_id), change(JobState.RUNNING)]
    assert "after the last word" in wrong(Evidence(KEY, tuple(signed_by(WS, late))))
    kept = ArtifactSaved(KEY, "out", spec().code_digest, 1, 1, True)
    said = [*story(ANA.peer_id)[:4], END, ended(KEY, kept)]
    assert "no event does" in wrong(Evidence(KEY, tuple(signed_by(WS, said))))


def test_the_end_that_is_told_is_the_one_that_was_signed() -> None:
    told = change(JobState.FAILED, KEY, 1)
    _, found = prove_chain(whole(), READ, told, WS.peer_id)
    assert found[1].sentence == "signed as done, but told as failed"


def test_what_a_submitter_signs_is_the_same_for_every_attempt_and_without_inputs() -> None:
    third = replace(spec(replace(KEY, attempt=3)), inputs=())
    assert specification_bytes(specification_of(third)) == specification_bytes(
        specification_of(spec())
    )
    read = read_specification(specification_bytes(specification_of(spec())))
    assert read == specification_of(spec())


def test_an_event_says_what_was_laid_in_and_never_where_it_lay() -> None:
    first = walk(whole(), READ).taken
    assert isinstance(first, Taken)
    assert [(each.path, each.sources) for each in first.inputs] == [("data", ())]


def test_evidence_reads_as_it_was_written() -> None:
    assert unpack_evidence(pack_evidence(whole())) == whole()
    for signed in whole().events:
        assert event_bytes(read_event(signed.body)) == signed.body
    assert isinstance(read_event(whole().events[-1].body).said, Vouched)
