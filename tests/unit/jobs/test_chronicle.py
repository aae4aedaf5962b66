"""What an attempt has to tell stays short and in order."""

from datetime import UTC, datetime

from dstack_agent.jobs.chronicle import Chronicle, Told
from dstack_agent.servicers.pump import split
from dstack_mesh.ids import Digest, RunId
from dstack_scheduler.job import ArtifactSaved, Fin, JobKey, JobState, StateChange

KEY = JobKey(RunId("0" * 26), 0, 1)
DIGEST = Digest(b"d" * 32)


def state(which: JobState, cause: str = "") -> StateChange:
    return StateChange(KEY, which, datetime(2026, 1, 1, tzinfo=UTC), cause)


def artifact(path: str, files: int, complete: bool = False) -> ArtifactSaved:
    return ArtifactSaved(KEY, path, DIGEST, files, 1, complete)


def heard(chronicle: Chronicle, number: int = 0) -> list[Told]:
    return [told for _, told in chronicle.since(number)]


def test_a_reader_hears_everything_once_and_in_order() -> None:
    chronicle = Chronicle([state(JobState.PREPARING)])
    chronicle.tell(state(JobState.RUNNING))
    (number, first), (_, second) = chronicle.since(0)
    assert [first, second] == [state(JobState.PREPARING), state(JobState.RUNNING)]
    assert heard(chronicle, number) == [state(JobState.RUNNING)]


def test_partial_versions_and_words_about_preparing_do_not_pile_up() -> None:
    chronicle = Chronicle()
    chronicle.tell(state(JobState.PREPARING))
    for done in range(100):
        chronicle.tell(state(JobState.PREPARING, f"{done} % pulled"))
    chronicle.tell(state(JobState.RUNNING))
    for files in range(1000):
        chronicle.tell(artifact("model", files))
    chronicle.tell(artifact("logs", 1))
    chronicle.tell(artifact("model", 5, complete=True))
    assert heard(chronicle) == [
        state(JobState.PREPARING),
        state(JobState.RUNNING),
        artifact("logs", 1),
        artifact("model", 5, complete=True),
    ]


def test_a_slow_reader_still_hears_the_newest() -> None:
    chronicle = Chronicle()
    chronicle.tell(artifact("model", 1))
    ((number, _),) = chronicle.since(0)
    chronicle.tell(artifact("model", 2))
    chronicle.tell(artifact("model", 3))
    assert heard(chronicle, number) == [artifact("model", 3)]


def test_what_closes_waits_for_the_log() -> None:
    fin = Fin(KEY, state(JobState.DONE), 0, DIGEST, 0, DIGEST)
    told: list[Told] = [
        state(JobState.RUNNING),
        artifact("m", 1),
        state(JobState.SAVING),
        artifact("m", 2, complete=True),
        state(JobState.DONE),
        fin,
    ]
    chronicle = Chronicle(told)
    opening, closing = split(chronicle.since(0))
    assert [each for _, each in opening] == told[:2]
    assert [each for _, each in closing] == told[2:]
    assert chronicle.last_word == fin
