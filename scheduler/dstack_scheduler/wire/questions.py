"""Asks, bids and holds as messages, and back."""

from google.protobuf.duration_pb2 import Duration

from dstack_mesh.ids import RunName
from dstack_mesh.v1 import auction_pb2
from dstack_mesh.wire.membership import executor_from_wire, executor_to_wire
from dstack_scheduler.agent_port import Hold, Question
from dstack_scheduler.verdict import Bid
from dstack_scheduler.wire import fields
from dstack_scheduler.wire.convert import (
    key_from_wire,
    key_to_wire,
    needs_from_wire,
    needs_to_wire,
    verdict_from_wire,
    verdict_to_wire,
)


def ask_to_wire(question: Question) -> auction_pb2.AskRequest:
    """The question as an ask. The run's name is not asked about and stays behind."""
    return auction_pb2.AskRequest(
        job=key_to_wire(question.key),
        needs=needs_to_wire(question.needs),
        executor=executor_to_wire(question.executor),
        python=question.python,
        input_digests=question.input_digests,
        input_sizes_bytes=question.input_sizes_bytes,
        image=question.image,
        max_duration=_limit_to_wire(question),
        outside_paths=question.outside_paths,
        ports=question.ports,
        ssh=question.ssh,
    )


def ask_from_wire(wire: auction_pb2.AskRequest) -> Question:
    """The question that was asked; its run has no name."""
    return Question(
        key=key_from_wire(wire.job),
        run_name=RunName(""),
        needs=needs_from_wire(wire.needs),
        executor=executor_from_wire(wire.executor),
        python=fields.line(wire.python, "The Python version"),
        input_digests=tuple(
            fields.digest(each, "An input's digest")
            for each in fields.items(wire.input_digests, "Inputs")
        ),
        input_sizes_bytes=fields.items(wire.input_sizes_bytes, "Sizes of inputs"),
        image=fields.line(wire.image, "The image"),
        max_duration_seconds=_limit_from_wire(wire),
        outside_paths=fields.lines(wire.outside_paths, "Paths"),
        ports=wire.ports,
        ssh=wire.ssh,
    )


def reserve_to_wire(question: Question, epoch: int) -> auction_pb2.ReserveRequest:
    """The question as a wish to hold what it needs."""
    return auction_pb2.ReserveRequest(
        job=key_to_wire(question.key),
        needs=needs_to_wire(question.needs),
        epoch=epoch,
        run_name=question.run_name,
        executor=executor_to_wire(question.executor),
        python=question.python,
        image=question.image,
        max_duration=_limit_to_wire(question),
        outside_paths=question.outside_paths,
        ports=question.ports,
        ssh=question.ssh,
        meets=question.meets,
    )


def reserve_from_wire(wire: auction_pb2.ReserveRequest) -> tuple[Question, int]:
    """What to hold, without inputs, and the driver's epoch."""
    question = Question(
        key=key_from_wire(wire.job),
        run_name=fields.run_name(wire.run_name),
        needs=needs_from_wire(wire.needs),
        executor=executor_from_wire(wire.executor),
        python=fields.line(wire.python, "The Python version"),
        image=fields.line(wire.image, "The image"),
        max_duration_seconds=_limit_from_wire(wire),
        outside_paths=fields.lines(wire.outside_paths, "Paths"),
        ports=wire.ports,
        ssh=wire.ssh,
        meets=wire.meets,
    )
    return question, fields.epoch(wire.epoch)


def _limit_to_wire(question: Question) -> Duration | None:
    seconds = question.max_duration_seconds
    return None if seconds is None else fields.seconds_to_wire(seconds)


def _limit_from_wire(wire: auction_pb2.AskRequest | auction_pb2.ReserveRequest) -> float | None:
    return fields.seconds_from_wire(wire.max_duration) if wire.HasField("max_duration") else None


def bid_to_wire(bid: Bid) -> auction_pb2.AskResponse:
    """An answer to an ask."""
    # Whoever asks says how large the inputs are; all together may be no number of a message.
    missing = min(bid.missing_bytes, fields.LARGEST)
    return auction_pb2.AskResponse(verdict=verdict_to_wire(bid.verdict), missing_bytes=missing)


def bid_from_wire(wire: auction_pb2.AskResponse) -> Bid:
    """An answer to an ask."""
    return Bid(verdict_from_wire(wire.verdict), wire.missing_bytes)


def hold_to_wire(hold: Hold) -> auction_pb2.ReserveResponse:
    """A hold as its agent grants it."""
    return auction_pb2.ReserveResponse(
        hold_id=hold.hold_id,
        expires_in=fields.seconds_to_wire(hold.expires_in_seconds),
        gpu_uuids=hold.gpu_uuids,
        meeting_point=hold.meeting_point,
    )


def hold_from_wire(wire: auction_pb2.ReserveResponse) -> Hold:
    """A hold as its agent grants it."""
    return Hold(
        hold_id=fields.hold_id(wire.hold_id),
        expires_in_seconds=fields.seconds_from_wire(wire.expires_in),
        gpu_uuids=fields.lines(wire.gpu_uuids, "Cards"),
        meeting_point=fields.line(wire.meeting_point, "The meeting point"),
    )
