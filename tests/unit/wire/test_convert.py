"""Every domain value survives the wire, and what is not valid does not get past it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Address, Digest, HoldId, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.v1 import auction_pb2, job_pb2, run_pb2
from dstack_scheduler.agent_port import DrivenJob, Hold, Question
from dstack_scheduler.job import (
    NOTHING,
    ArtifactSaved,
    EndOfLog,
    Fin,
    Gap,
    Input,
    JobKey,
    JobRecord,
    JobSpec,
    JobState,
    LogFrame,
    LogStream,
    Node,
    Revision,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.removal import Removal
from dstack_scheduler.retry import Retry
from dstack_scheduler.secret import RegistryAuth
from dstack_scheduler.verdict import Bid, Later, Never, NotNow, Now, Reason
from dstack_scheduler.wire import convert, questions

run_ids = st.from_regex(r"[0-9A-HJKMNP-TV-Z]{26}", fullmatch=True).map(RunId)
run_names = st.from_regex(r"[a-z]{1,8}-[a-z]{1,8}-[1-9]", fullmatch=True).map(RunName)
peer_ids = st.from_regex(r"[a-z2-7]{32}", fullmatch=True).map(PeerId)
digests = st.binary(min_size=32, max_size=32).map(Digest)
words = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=12)
paths = words.filter(bool)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
counts = st.integers(0, 2**40)
small = st.integers(0, 2**31)
seconds = st.integers(0, 10**9).map(lambda n: n / 1000)
instants = st.integers(1, 4 * 10**15).map(
    lambda n: datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC) + timedelta(microseconds=n)
)
addresses = st.sampled_from(["10.0.0.1:7420", "[fd00::1]:7420"]).map(Address)
keys = st.builds(JobKey, run_ids, st.integers(0, 999), st.integers(1, 99))
mappings = st.dictionaries(st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True), texts, max_size=3)


def tuples(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=3).map(tuple)


def gap_of(key: JobKey, stream: LogStream, at: int, length: int, why: str) -> Gap:
    return Gap(key, stream, at, at + length, why)


def driven_of(spec: JobSpec, placement: str, awarded: Source | None) -> DrivenJob:
    return DrivenJob(spec, tuple(range(min(spec.key.job, 3))), placement, awarded)


sources = st.builds(Source, peer_ids, tuples(addresses))
needs = st.builds(Needs, small, counts, small, words, counts, counts, st.booleans(), counts)
inputs = st.builds(Input, digests, paths, tuples(sources), words, counts)
revisions = st.builds(Revision, words, words, words, st.booleans())
states = st.builds(
    StateChange,
    keys,
    st.sampled_from(JobState),
    instants,
    texts,
    words,
    st.none() | st.integers(-1, 255),
)
artifacts = st.builds(
    ArtifactSaved,
    *(keys, paths, digests, counts, counts, st.booleans(), st.none() | instants, tuples(paths)),
)
specs = st.builds(
    JobSpec,
    key=keys,
    run_name=run_names,
    workflow=words,
    provider=words,
    commands=tuples(texts),
    needs=needs,
    code_digest=digests,
    submitted_at=instants,
    image=words,
    entrypoint=tuples(texts),
    env=mappings,
    working_dir=st.sampled_from(["", "a", "a/b", "/app"]),
    artifacts=tuples(paths),
    inputs=tuples(inputs),
    python=st.sampled_from(["", "3.11"]),
    stop_grace_seconds=seconds,
    max_duration_seconds=st.none() | seconds,
    owner=words,
    revision=revisions,
    variables=mappings,
    secret_names=tuples(words),
    ports=tuples(st.integers(0, 65535)),
    registry_auth=st.none() | st.builds(RegistryAuth, words, st.just("${{ secrets.R }}")),
    idle_timeout_seconds=st.none() | seconds,
    retry=st.none() | st.builds(Retry, st.integers(0, 100), tuples(words), st.none() | seconds),
    cache=tuples(paths),
    counted=tuples(words),
    prebuild=st.sampled_from(Prebuild),
    node=st.none() | st.builds(Node, st.integers(0, 3), st.integers(4, 256), words),
)
job_records = st.builds(
    JobRecord,
    keys,
    words,
    words,
    states,
    st.none() | peer_ids,
    words,
    tuples(words),
    tuples(artifacts),
    tuples(sources),
    st.booleans(),
    st.just(NOTHING) | digests,
    tuples(words),
)
run_records = st.builds(
    RunRecord,
    run_ids,
    run_names,
    words,
    words,
    instants,
    st.integers(0, 999),
    revisions,
    mappings,
    tuples(job_records),
    st.just(PeerId("")) | peer_ids,
)
removals = st.builds(Removal, run_ids, instants, peer_ids, st.booleans())
tags = st.builds(TagRecord, words, paths, st.none() | run_ids, run_names, instants)
frames = st.builds(
    LogFrame, keys, st.sampled_from(LogStream), counts, st.binary(max_size=99), instants
)
gaps = st.builds(gap_of, keys, st.sampled_from(LogStream), counts, counts, texts)
fins = st.builds(
    Fin,
    keys,
    states.filter(lambda change: change.state.ended),
    counts,
    digests,
    counts,
    digests,
    tuples(artifacts),
)
reasons = tuples(st.builds(Reason, words, texts, texts))
verdicts = (
    st.builds(Now, tuples(words), small, small)
    | st.builds(Later, reasons, st.none() | seconds)
    | st.builds(NotNow, reasons)
    | st.builds(Never, reasons)
)
driven = st.builds(driven_of, specs, words, st.none() | sources)
asks = st.builds(
    Question,
    keys,
    st.just(RunName("")),
    needs,
    st.sampled_from(ExecutorKind),
    st.sampled_from(["", "3.11"]),
    tuples(digests),
)
holds = st.builds(
    Hold,
    st.from_regex(r"[0-9a-f]{32}", fullmatch=True).map(HoldId),
    seconds,
    tuples(words),
)

BOTH_WAYS: list[
    tuple[str, st.SearchStrategy[object], Callable[..., object], Callable[..., object]]
] = [
    ("key", keys, convert.key_to_wire, convert.key_from_wire),
    ("needs", needs, convert.needs_to_wire, convert.needs_from_wire),
    ("source", sources, convert.source_to_wire, convert.source_from_wire),
    ("input", inputs, convert.input_to_wire, convert.input_from_wire),
    ("revision", revisions, convert.revision_to_wire, convert.revision_from_wire),
    ("spec", specs, convert.spec_to_wire, convert.spec_from_wire),
    ("state", states, convert.state_to_wire, convert.state_from_wire),
    ("artifact", artifacts, convert.artifact_to_wire, convert.artifact_from_wire),
    ("frame", frames, convert.frame_to_wire, convert.frame_from_wire),
    ("gap", gaps, convert.gap_to_wire, convert.gap_from_wire),
    ("fin", fins, convert.fin_to_wire, convert.fin_from_wire),
    ("end", keys.map(EndOfLog), convert.end_of_log_to_wire, convert.end_of_log_from_wire),
    ("job record", job_records, convert.job_record_to_wire, convert.job_record_from_wire),
    ("run record", run_records, convert.run_record_to_wire, convert.run_record_from_wire),
    ("removal", removals, convert.removal_to_wire, convert.removal_from_wire),
    ("tag", tags, convert.tag_to_wire, convert.tag_from_wire),
    ("driven job", driven, convert.driven_to_wire, convert.driven_from_wire),
    ("verdict", verdicts, convert.verdict_to_wire, convert.verdict_from_wire),
    ("bid", st.builds(Bid, verdicts, counts), questions.bid_to_wire, questions.bid_from_wire),
    ("ask", asks, questions.ask_to_wire, questions.ask_from_wire),
    ("hold", holds, questions.hold_to_wire, questions.hold_from_wire),
]


@pytest.mark.parametrize(("values", "there", "back"), [row[1:] for row in BOTH_WAYS])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_value_survives_the_wire(
    data: st.DataObject,
    values: st.SearchStrategy[object],
    there: Callable[..., object],
    back: Callable[..., object],
) -> None:
    value = data.draw(values)
    message = there(value)
    again = type(message).FromString(message.SerializeToString())  # type: ignore[attr-defined]

    assert back(again) == value


@given(asks, run_names, st.integers(0, 2**60))
def test_a_wish_to_reserve_keeps_the_name_and_the_epoch(
    question: Question, name: RunName, epoch: int
) -> None:
    named = replace(question, run_name=name, input_digests=())

    assert questions.reserve_from_wire(questions.reserve_to_wire(named, epoch)) == (named, epoch)


GOOD_KEY = job_pb2.JobKey(run_id="0" * 26, job=0, attempt=1)


@pytest.mark.parametrize(
    "read",
    [
        lambda: convert.key_from_wire(job_pb2.JobKey(run_id="../etc", job=0, attempt=1)),
        lambda: convert.key_from_wire(job_pb2.JobKey(run_id="0" * 26, job=10**6, attempt=1)),
        lambda: convert.key_from_wire(job_pb2.JobKey(run_id="0" * 26, job=0)),
        lambda: convert.key_from_wire(job_pb2.JobKey()),
        lambda: convert.source_from_wire(job_pb2.Source(peer_id="short")),
        lambda: convert.input_from_wire(job_pb2.Input(digest=b"short", path="a")),
        lambda: convert.input_from_wire(job_pb2.Input(digest=b"d" * 32)),
        lambda: convert.spec_from_wire(job_pb2.JobSpec(key=GOOD_KEY)),
        lambda: convert.state_from_wire(job_pb2.StateChange(key=GOOD_KEY)),
        lambda: convert.frame_from_wire(run_pb2.LogFrame(key=GOOD_KEY, data=b"x" * 70_000)),
        lambda: convert.frame_from_wire(run_pb2.LogFrame(key=GOOD_KEY, data=b"x")),
        lambda: convert.gap_from_wire(
            run_pb2.Gap(key=GOOD_KEY, stream=run_pb2.LOG_STREAM_STDOUT, from_bytes=5, to_bytes=4)
        ),
        lambda: convert.fin_from_wire(run_pb2.Fin(key=GOOD_KEY)),
        lambda: convert.run_record_from_wire(run_pb2.RunRecord(run_id="0" * 26, run_name="a b")),
        lambda: convert.tag_from_wire(run_pb2.TagRecord(tag="")),
        lambda: convert.verdict_from_wire(auction_pb2.Verdict()),
        lambda: questions.ask_from_wire(auction_pb2.AskRequest(job=GOOD_KEY)),
        lambda: questions.hold_from_wire(auction_pb2.ReserveResponse(hold_id="")),
    ],
)
def test_what_is_not_valid_is_refused(read: Callable[[], object]) -> None:
    with pytest.raises(Invalid):
        read()


def spec_message(**change: Any) -> job_pb2.JobSpec:
    fields: dict[str, Any] = {"key": GOOD_KEY, "run_name": "calm-ibex-1", "code_digest": b"d" * 32}
    message = job_pb2.JobSpec(**(fields | change))
    message.submitted_at.seconds = 1
    return message


def test_the_message_that_the_next_tests_spoil_is_valid() -> None:
    assert convert.spec_from_wire(spec_message()).run_name == "calm-ibex-1"


@pytest.mark.parametrize(
    "change",
    [
        {"working_dir": "//etc"},
        {"working_dir": "/app/../etc"},
        {"working_dir": "a/../../b"},
        {"env": {"A=B": "c"}},
        {"env": {"A": "c\0"}},
        {"env": {"": "c"}},
        {"commands": ["echo \0"]},
        {"workflow": "a\nb"},
        {"owner": "\x1b]52;c;"},
        {"run_name": "../x"},
        {"artifacts": [job_pb2.ArtifactRequest(path="")]},
        {"commands": ["x" * 100_000]},
        {"commands": [""] * 20_000},
        {"ports": [0] * 101},
    ],
)
def test_a_specification_with_one_bad_field_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        convert.spec_from_wire(spec_message(**change))


def test_attempt_zero_is_only_good_for_the_newest() -> None:
    wire = job_pb2.JobKey(run_id="0" * 26)

    assert convert.key_from_wire(wire, newest=True).attempt == 0


def test_a_driven_job_comes_after_those_that_it_needs() -> None:
    wire = run_pb2.DrivenJob(spec=spec_message(), after=[0])

    with pytest.raises(Invalid):
        convert.driven_from_wire(wire)


def test_a_longer_mistake_is_not_repeated_in_full() -> None:
    with pytest.raises(Invalid) as refused:
        convert.key_from_wire(job_pb2.JobKey(run_id="x" * 10_000, attempt=1))

    assert len(refused.value.why) < 300
