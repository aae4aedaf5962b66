"""Evidence of made-up attempts, really signed."""

from dataclasses import replace
from datetime import UTC, datetime

from blake3 import blake3

from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_mesh.signing import Signed, Signer
from dstack_scheduler.evidence import (
    EVENT,
    SPECIFICATION,
    Event,
    Evidence,
    Said,
    Vouched,
    link,
    specification_of,
    taken,
)
from dstack_scheduler.job import (
    ArtifactSaved,
    Fin,
    Input,
    JobKey,
    JobSpec,
    JobState,
    Source,
    StateChange,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.wire.evidence import event_bytes, specification_bytes

KEY = JobKey(RunId("1" * 26), 0, 1)
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOTHING = Digest(blake3(b"").digest())


def spec(key: JobKey = KEY) -> JobSpec:
    """A job with something laid in."""
    source = Source(PeerId("b" * 32))
    return JobSpec(
        key=key,
        run_name=RunName("calm-ibex-1"),
        workflow="train",
        provider="bash",
        commands=("python train.py",),
        needs=Needs(gpus=1),
        code_digest=Digest(b"c" * 32),
        submitted_at=AT,
        env={"TOKEN": "${{ secrets.TOKEN }}", "EPOCHS": "3"},
        inputs=(Input(Digest(b"i" * 32), "data", (source,), "calm-ibex-1 (prepare)", 5),),
        owner="ana@laptop",
    )


def change(state: JobState, key: JobKey = KEY, exit_code: int | None = None) -> StateChange:
    """A state of the attempt."""
    return StateChange(key, state, AT, exit_code=exit_code)


def ended(key: JobKey = KEY, *kept: ArtifactSaved) -> Fin:
    """The last word on an attempt that wrote nothing."""
    return Fin(key, change(JobState.DONE, key, 0), 0, NOTHING, 0, NOTHING, kept)


def story(given_by: PeerId, key: JobKey = KEY) -> list[Said]:
    """An attempt from its beginning to its end."""
    saved = ArtifactSaved(key, "out", Digest(b"o" * 32), 3, 12, True)
    fin = ended(key, saved)
    return [
        taken(spec(key), given_by, ("GPU-1",)),
        change(JobState.PREPARING, key),
        change(JobState.RUNNING, key),
        change(JobState.SAVING, key),
        saved,
        fin.state,
        fin,
    ]


def signed_by(agent: Signer, said: list[Said], key: JobKey = KEY, epoch: int = 1) -> list[Signed]:
    """The chain of these events."""
    chain: list[Signed] = []
    for seq, each in enumerate(said, start=1):
        previous = link(chain[-1].body) if chain else b""
        chain.append(agent.sign(EVENT, event_bytes(Event(key, epoch, seq, previous, each))))
    return chain


def vouched_by(submitter: Signer, job: JobSpec | None = None) -> Signed:
    """The submitter's signature."""
    body = specification_bytes(specification_of(job or spec()))
    return submitter.sign(SPECIFICATION, body)


def evidence_of(agent: Signer, submitter: Signer, given_by: Signer | None = None) -> Evidence:
    """A whole attempt, given by the submitter or by who drove for it."""
    said = [*story((given_by or submitter).peer_id), Vouched(submitter.peer_id)]
    return Evidence(KEY, tuple(signed_by(agent, said)), vouched_by(submitter))


def retold(evidence: Evidence, *events: Signed) -> Evidence:
    """The same attempt with other events."""
    return replace(evidence, events=tuple(events))
