"""What a remote keeps of runs and tags is the same whoever pushes it, and is read back."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_mesh.ids import Address, Digest, PeerId, RunId, RunName
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    Revision,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)
from dstack_scheduler.pushed import PushedLog, PushedRun, for_everybody
from dstack_scheduler.wire.pushed import (
    run_from_bytes,
    run_to_bytes,
    tag_from_bytes,
    tag_to_bytes,
)

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
RUN_ID = RunId("01jdq0000000000000000000ab")
AGENT = PeerId("a" * 32)
KEY = JobKey(RUN_ID, 0)


def record(*copies: str) -> RunRecord:
    saved = ArtifactSaved(KEY, "model", Digest(b"m" * 32), 3, 100, True)
    job = JobRecord(
        KEY,
        "train",
        "bash",
        StateChange(KEY, JobState.DONE, AT, exit_code=0),
        agent_id=AGENT,
        agent_name="ws-1",
        artifacts=(saved,),
        copies=tuple(Source(PeerId(one * 32), (Address("ws:1"),)) for one in copies),
    )
    return RunRecord(
        *(RUN_ID, RunName("calm-ibex-1"), "train", "ana@laptop", AT, 1, Revision("lab")),
        variables={"lr": "0.1"},
        jobs=(job,),
    )


def test_who_else_has_copies_does_not_change_what_is_pushed() -> None:
    pushed = {run_to_bytes(PushedRun(for_everybody(record(*copies)))) for copies in ("", "bc")}
    assert len(pushed) == 1
    assert b"ws:1" not in pushed.pop()


def test_a_run_is_read_back_with_its_logs() -> None:
    log = PushedLog(KEY, Digest(b"l" * 32), 20)
    pushed = PushedRun(for_everybody(record("b")), (log,))
    assert run_from_bytes(run_to_bytes(pushed)) == pushed
    assert pushed.trees == (Digest(b"m" * 32), Digest(b"l" * 32))


def test_a_tag_is_read_back() -> None:
    tag = TagRecord("lab", "v1", RUN_ID, RunName("calm-ibex-1"), AT)
    for each in (tag, replace(tag, run_id=None)):
        assert tag_from_bytes(tag_to_bytes(each)) == each


@given(st.binary(max_size=400))
def test_bytes_from_anywhere_are_a_record_or_refused(content: bytes) -> None:
    for parse in (run_from_bytes, tag_from_bytes):
        with suppress(Invalid):
            parse(content)


def test_a_run_of_nothing_is_refused() -> None:
    with pytest.raises(Invalid):
        run_from_bytes(b"")
