"""The words of SWIM in membership.proto as domain types and back.

What comes in is bounded, and the sender's own line is about the peer that TLS names.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from dstack_mesh.faults import Invalid
from dstack_mesh.identity import is_id
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.comparing import Question, Reply
from dstack_mesh.membership.place import may_dial
from dstack_mesh.membership.rumour import (
    HIGHEST_INCARNATION,
    MOST_ACCUSERS,
    MOST_ADDRESSES,
    Condition,
    Message,
    Rumour,
)
from dstack_mesh.own_name import printable
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.wire.membership import state_from_wire, state_to_wire

MOST_RUMOURS = 64
LONGEST_NAME = 64
LONGEST_DIGEST = 64
FINGERPRINT_BYTES = 8

AHEAD_SECONDS = 86_400
"""How far the clock by which a peer began may be ahead of ours. What it says of itself counts
whatever its clock shows."""

_CONDITIONS = {
    Condition.ALIVE: pb.CONDITION_ALIVE,
    Condition.SUSPECT: pb.CONDITION_SUSPECT,
    Condition.DEAD: pb.CONDITION_DEAD,
    Condition.LEFT: pb.CONDITION_LEFT,
}
_CONDITIONS_BACK = {wire: condition for condition, wire in _CONDITIONS.items()}


class Told(Protocol):
    """A message with a word and rumours: a probe, its answer, a step of a comparison."""

    @property
    def word(self) -> pb.Rumour: ...
    @property
    def rumours(self) -> Sequence[pb.Rumour]: ...


def rumour_to_wire(rumour: Rumour) -> pb.Rumour:
    return pb.Rumour(
        peer_id=rumour.peer_id,
        incarnation=rumour.incarnation,
        condition=_CONDITIONS[rumour.condition],
        state=state_to_wire(rumour.state),
        name=rumour.name[:LONGEST_NAME],
        addresses=rumour.addresses[:MOST_ADDRESSES],
        accusers=rumour.accusers[:MOST_ACCUSERS],
        roster=rumour.roster,
    )


def hearsay_from_wire(rumour: pb.Rumour) -> Rumour:
    """What one peer says of another. Raises Invalid if nobody can have said it.

    An incarnation that its peer reaches in a day or later is one: that peer could not object.
    """
    if rumour.incarnation > (time.time() + AHEAD_SECONDS) * 1000:
        raise Invalid("A rumour is of an incarnation to come.", str(rumour.incarnation))
    return rumour_from_wire(rumour)


def rumour_from_wire(rumour: pb.Rumour) -> Rumour:
    """Raises Invalid if no peer can have said it."""
    condition = _CONDITIONS_BACK.get(rumour.condition)
    if condition is None or not is_id(rumour.peer_id):
        raise Invalid(
            "A rumour says nothing, or of nobody.",
            f"{rumour.peer_id[:40]!r}, condition {rumour.condition}",
        )
    if rumour.incarnation > HIGHEST_INCARNATION:
        raise Invalid("A rumour is of no incarnation.", str(rumour.incarnation))
    name = printable(rumour.name, LONGEST_NAME)
    addresses = filter(may_dial, map(Address, rumour.addresses[:MOST_ADDRESSES]))
    accusers = (PeerId(one) for one in rumour.accusers[:MOST_ACCUSERS] if is_id(one))
    return Rumour(
        PeerId(rumour.peer_id),
        rumour.incarnation,
        condition,
        state_from_wire(rumour.state),
        name,
        tuple(addresses),
        tuple(accusers),
        rumour.roster if len(rumour.roster) <= LONGEST_DIGEST else "",
    )


def message_to_wire(message: Message) -> tuple[pb.Rumour, list[pb.Rumour]]:
    """The word and the rumours, as every message carries them."""
    rumours = message.rumours[:MOST_RUMOURS]
    return rumour_to_wire(message.word), [rumour_to_wire(one) for one in rumours]


def message_from_wire(told: Told, sender: PeerId) -> Message:
    """What a peer said. Rumours that cannot be are left out.

    Args:
        told: The message.
        sender: Who said it, by TLS.

    Raises:
        Invalid: What it says of itself cannot be.
    """
    own = pb.Rumour()
    own.CopyFrom(told.word)
    own.peer_id = sender
    word = rumour_from_wire(own)
    if word.condition not in (Condition.ALIVE, Condition.LEFT):
        word = replace(word, condition=Condition.ALIVE)
    return Message(word, tuple(_each(told.rumours[:MOST_RUMOURS])))


def question_to_wire(question: Question) -> pb.CompareRequest:
    word, rumours = message_to_wire(question.message)
    return pb.CompareRequest(
        word=word, rumours=rumours, fingerprint=question.fingerprint, after=question.after
    )


def question_from_wire(request: pb.CompareRequest, sender: PeerId) -> Question:
    """Raises Invalid."""
    if len(request.fingerprint) > FINGERPRINT_BYTES or len(request.after) > 32:
        raise Invalid("A step of a comparison is of no view.")
    message = message_from_wire(request, sender)
    return Question(message, request.fingerprint, request.after)


def reply_to_wire(reply: Reply) -> pb.CompareResponse:
    word, rumours = message_to_wire(reply.message)
    return pb.CompareResponse(word=word, rumours=rumours, same=reply.same, next=reply.next)


def reply_from_wire(response: pb.CompareResponse, sender: PeerId) -> Reply:
    """Raises Invalid."""
    after = response.next if is_id(response.next) else ""
    return Reply(message_from_wire(response, sender), response.same, after)


def _each(rumours: Iterable[pb.Rumour]) -> Iterable[Rumour]:
    for rumour in rumours:
        try:
            yield hearsay_from_wire(rumour)
        except Invalid:
            continue
