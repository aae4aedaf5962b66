"""What must be known of a driven run if its agent dies at any moment."""

from datetime import UTC, datetime

from dstack_agent.driven import DrivenRun
from dstack_agent.driving import after
from dstack_mesh.card import PeerCard
from dstack_mesh.ids import Address, Digest, MeshId, PeerId, RunId, RunName
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    JobKey,
    JobSpec,
    JobState,
    RunRecord,
    Source,
    StateChange,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.progress import Awarded, RunEnded, Waiting

RUN = RunId("0" * 26)
AT = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = Digest(b"d" * 32)
WS = PeerCard(PeerId("b" * 32), MeshId("m"), "ws-2", (Address("10.0.0.2:7420"),), "0", True)


def driven() -> DrivenRun:
    def job(index: int) -> DrivenJob:
        spec = JobSpec(
            key=JobKey(RUN, index),
            run_name=RunName("calm-ibex-1"),
            workflow=f"job-{index}",
            provider="bash",
            commands=(),
            needs=Needs(),
            code_digest=DIGEST,
            submitted_at=AT,
        )
        return DrivenJob(spec)

    record = RunRecord(RUN, RunName("calm-ibex-1"), "job-1", "ana@laptop", AT, 2)
    return DrivenRun(record, (job(0), job(1)), 1)


def test_an_awarded_job_is_found_again_and_its_next_attempt_is_another() -> None:
    run = after(driven(), Awarded(1, 2, WS, False, ("GPU-1",), "only free GPU"))
    assert run.jobs[1].awarded == Source(WS.peer_id, WS.addresses)
    assert run.jobs[1].spec.key.attempt == 3
    assert run.jobs[0] == driven().jobs[0]
    (told,) = run.record.jobs
    assert (told.agent_name, told.gpu_uuids) == ("ws-2", ("GPU-1",))


def test_states_and_artifacts_are_kept_for_those_who_list_runs() -> None:
    run = after(driven(), Awarded(0, 1, WS, False, (), "only agent"))
    key = JobKey(RUN, 0, 1)
    done = StateChange(key, JobState.DONE, AT, exit_code=0)
    run = after(run, StateChange(key, JobState.RUNNING, AT))
    assert run.record.jobs[0].state.state is JobState.RUNNING
    artifact = ArtifactSaved(key, "data", DIGEST, 1, 1, complete=True)
    run = after(run, Fin(key, done, 0, DIGEST, 0, DIGEST, (artifact,)))
    assert run.record.jobs[0].state == done
    assert run.record.jobs[0].artifacts == (artifact,)
    assert run.record.jobs[0].agent_name == "ws-2"


def test_what_changes_nothing_is_not_written() -> None:
    run = driven()
    assert after(run, Waiting(1, ())) is run
    run = after(run, StateChange(JobKey(RUN, 1), JobState.DONE, AT))
    ended = StateChange(JobKey(RUN, 1), JobState.DONE, AT)
    assert after(run, RunEnded(RunName("calm-ibex-1"), ended)) is run
