"""Walks what is signed of an attempt, alone: signatures, numbers, hashes, and that all of it fits.

Pure but for the arithmetic of signatures. What does not hold is named; nothing that comes after it
is believed.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import assert_never

from dstack_mesh.faults import Damaged, MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.signing import Signed, check
from dstack_scheduler.evidence import (
    EVENT,
    SPECIFICATION,
    Event,
    Evidence,
    Said,
    Taken,
    Vouched,
    link,
)
from dstack_scheduler.job import RELOADED, ArtifactSaved, Fin, JobKey, JobSpec, StateChange

BROKEN = "broken-chain"


class Standing(Enum):
    """What is known of something that was looked at."""

    PROVED = "proved"
    OPEN = "open"
    """Cannot be looked at here; nothing speaks against it."""
    ABSENT = "absent"
    """Should be signed and is not."""
    WRONG = "wrong"

    @property
    def holds(self) -> bool:
        return self in (Standing.PROVED, Standing.OPEN)


@frozen
class Fact:
    """Something that was looked at.

    Attributes:
        about: "job 0, attempt 1", or "" for the whole run.
        what: One word, as "specification", "events", "log".
        sentence: What is proved, or what is not.
    """

    about: str
    what: str
    standing: Standing
    sentence: str


@frozen
class Reading:
    """How signed bytes are read. Each raises Damaged."""

    event: Callable[[bytes], Event]
    specification: Callable[[bytes], JobSpec]


@frozen
class Walked:
    """A chain whose every event holds.

    Attributes:
        agent: Who signed it.
        taken: Its first event.
        submitter: Whose signature the agent says that it keeps; None for none.
        fin: The last word; None while there is none.
    """

    key: JobKey
    agent: PeerId
    taken: Taken
    said: tuple[Said, ...]
    submitter: PeerId | None
    fin: Fin | None

    @property
    def giver(self) -> PeerId:
        """Who gave the job to the agent."""
        return self.taken.given_by or self.agent

    @property
    def states(self) -> list[StateChange]:
        """The states in order."""
        return [each for each in self.said if isinstance(each, StateChange)]


def about(key: JobKey) -> str:
    """How an attempt is called."""
    return f"job {key.job}, attempt {key.attempt}"


def walk(evidence: Evidence, read: Reading) -> Walked:
    """The chain, if all of it holds. Raises Damaged that names the event that does not."""
    if not evidence.events:
        raise _broken("No event is signed.")
    events: list[Event] = []
    for number, signed in enumerate(evidence.events, start=1):
        event = _event(number, signed, read)
        _check_place(number, event, evidence, events)
        events.append(event)
    said = tuple(event.said for event in events)
    fin = next((each for each in said if isinstance(each, Fin)), None)
    if fin is not None:
        _check_last_word(fin, said)
    first = said[0]
    assert isinstance(first, Taken)
    vouched = [each.peer_id for each in said if isinstance(each, Vouched)]
    return Walked(
        key=evidence.key,
        agent=evidence.events[0].signer,
        taken=first,
        said=said,
        submitter=vouched[-1] if vouched else None,
        fin=fin,
    )


def prove_submitter(walked: Walked, signed: Signed | None, read: Reading) -> Fact:
    """Who signed the specification, as far as that is proved."""
    giver = walked.giver
    if signed is None:
        if walked.submitter is not None:
            return _specification(
                walked, Standing.ABSENT, f"signed by {walked.submitter}; its signature is gone"
            )
        return _specification(
            walked,
            Standing.ABSENT,
            f"submitted by {giver} (as the agent attests), not signed by it",
        )
    try:
        signer = check(SPECIFICATION, signed)
        specification = read.specification(signed.body)
    except MeshError as wrong:
        return _specification(walked, Standing.WRONG, f"{wrong}")
    if specification != walked.taken.specification:
        return _specification(walked, Standing.WRONG, "what was signed is not what the agent took")
    if signer != walked.submitter:
        return _specification(
            walked,
            Standing.WRONG,
            f"signed by {signer}; the agent attests that {walked.submitter or giver} gave it",
        )
    through = "" if signer == giver else f", handed over through {giver}"
    return _specification(walked, Standing.PROVED, f"signed by {signer}{through}")


def prove_events(walked: Walked, expected: StateChange | None) -> Fact:
    """That the chain goes on to where the attempt is known to be.

    Args:
        expected: Its newest state as its agent told it; None if nobody told.
    """
    last = walked.states[-1] if walked.states else None
    count = f"{len(walked.said)} events signed by {walked.agent}"
    ended = expected is not None and expected.state.ended
    if walked.fin is None and ended:
        return _events(walked, Standing.WRONG, f"events are missing at the end, after {count}")
    if walked.fin is not None and expected is not None and walked.fin.state != expected:
        signed_end, told = walked.fin.state.state.value, expected.state.value
        return _events(walked, Standing.WRONG, f"signed as {signed_end}, but told as {told}")
    if walked.fin is None:
        state = last.state.value if last is not None else "submitted"
        return _events(walked, Standing.OPEN, f"{count}, up to {state}; no last word yet")
    return _events(walked, Standing.PROVED, f"{count}, {walked.fin.state.state.value}")


def prove_chain(
    evidence: Evidence, read: Reading, expected: StateChange | None, agent: PeerId | None
) -> tuple[Walked | None, list[Fact]]:
    """What is proved of an attempt by signatures alone.

    Args:
        expected: As for `prove_events`.
        agent: Who has the attempt as far as is known; another one's chain is refused.
    """
    where = about(evidence.key)
    try:
        walked = walk(evidence, read)
    except MeshError as wrong:
        return None, [Fact(where, "events", Standing.WRONG, f"{wrong}")]
    if agent is not None and walked.agent != agent:
        sentence = f"signed by {walked.agent}, but {agent} has the attempt"
        return None, [Fact(where, "events", Standing.WRONG, sentence)]
    facts = [
        prove_submitter(walked, evidence.specification, read),
        prove_events(walked, expected),
        *_edits(walked),
    ]
    return walked, facts


def _edits(walked: Walked) -> list[Fact]:
    """That other code ran than was signed, if it did: its submitter edited it meanwhile."""
    edited = [state for state in walked.states if state.reason == RELOADED][:1]
    return [
        Fact(
            about(walked.key),
            "edits",
            Standing.OPEN,
            f"from {state.at:%H:%M:%S} UTC on its code followed edits of its submitter;"
            " it began with what was signed",
        )
        for state in edited
    ]


def _event(number: int, signed: Signed, read: Reading) -> Event:
    try:
        check(EVENT, signed)
        return read.event(signed.body)
    except MeshError as wrong:
        raise _broken(f"Event {number} does not hold: {wrong}") from wrong


def _check_place(number: int, event: Event, evidence: Evidence, before: Sequence[Event]) -> None:
    if event.key != evidence.key or not _is_of(event.said, evidence.key):
        raise _broken(f"Event {number} is of another attempt.")
    if event.seq != number:
        raise _broken(f"Event {number} is not there: event {event.seq} stands in its place.")
    if event.previous != (link(evidence.events[number - 2].body) if before else b""):
        raise _broken(f"Event {number} does not follow the one before it.")
    if evidence.events[number - 1].key != evidence.events[0].key:
        raise _broken(f"Event {number} is signed by somebody else than those before it.")
    if isinstance(event.said, Taken) != (number == 1):
        raise _broken(f"Event {number} cannot stand there: the first says what was taken.")
    if before and event.epoch != before[0].epoch:
        raise _broken(f"Event {number} has another epoch than those before it.")
    ended = any(isinstance(each.said, Fin) for each in before)
    if ended and not isinstance(event.said, Vouched):
        raise _broken(f"Event {number} comes after the last word.")


def _check_last_word(fin: Fin, said: Sequence[Said]) -> None:
    kept = {(each.path, each.digest) for each in said if isinstance(each, ArtifactSaved)}
    for artifact in fin.artifacts:
        if artifact.complete and (artifact.path, artifact.digest) not in kept:
            raise _broken(f"The last word names an artifact, {artifact.path}, that no event does.")


def _is_of(said: Said, attempt: JobKey) -> bool:
    match said:
        case StateChange(key=key) | ArtifactSaved(key=key) | Fin(key=key):
            return key == attempt
        case Taken(specification=JobSpec(key=key)):
            # A submitter signs the job, whichever attempt at it that becomes.
            return (key.run_id, key.job) == (attempt.run_id, attempt.job)
        case Vouched():
            return True
    assert_never(said)


def _specification(walked: Walked, standing: Standing, sentence: str) -> Fact:
    return Fact(about(walked.key), "specification", standing, sentence)


def _events(walked: Walked, standing: Standing, sentence: str) -> Fact:
    return Fact(about(walked.key), "events", standing, sentence)


def _broken(what: str) -> Damaged:
    return Damaged(what, code=BROKEN)
