"""Verdicts as messages, and back."""

from collections.abc import Iterable
from typing import assert_never

from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import auction_pb2
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Reason, Verdict
from dstack_scheduler.wire import fields


def _reasons_to_wire(reasons: Iterable[Reason]) -> list[auction_pb2.Reason]:
    return [
        auction_pb2.Reason(code=reason.code, message=reason.message, hint=reason.hint)
        for reason in reasons
    ]


def _reasons_from_wire(wires: Iterable[auction_pb2.Reason]) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            code=fields.line(wire.code, "The reason's code"),
            message=fields.text(wire.message, "The reason"),
            hint=fields.text(wire.hint, "The hint"),
        )
        for wire in fields.items(wires, "Reasons")
    )


def verdict_to_wire(verdict: Verdict) -> auction_pb2.Verdict:
    match verdict:
        case Now(gpu_uuids, gpus_left, running):
            now = auction_pb2.Now(gpu_uuids=gpu_uuids, gpus_left=gpus_left, running=running)
            return auction_pb2.Verdict(now=now)
        case Later(reasons, wait):
            later = auction_pb2.Later(
                reasons=_reasons_to_wire(reasons),
                wait=None if wait is None else fields.seconds_to_wire(wait),
            )
            return auction_pb2.Verdict(later=later)
        case NotNow(reasons):
            not_now = auction_pb2.NotNow(reasons=_reasons_to_wire(reasons))
            return auction_pb2.Verdict(not_now=not_now)
        case Never(reasons):
            return auction_pb2.Verdict(never=auction_pb2.Never(reasons=_reasons_to_wire(reasons)))
        case _:
            assert_never(verdict)


def verdict_from_wire(wire: auction_pb2.Verdict) -> Verdict:
    match wire.WhichOneof("kind"):
        case "now":
            cards = fields.lines(wire.now.gpu_uuids, "Cards")
            return Now(cards, wire.now.gpus_left, wire.now.running)
        case "later":
            wait = wire.later.wait if wire.later.HasField("wait") else None
            return Later(
                _reasons_from_wire(wire.later.reasons),
                None if wait is None else fields.seconds_from_wire(wait),
            )
        case "not_now":
            return NotNow(_reasons_from_wire(wire.not_now.reasons))
        case "never":
            return Never(_reasons_from_wire(wire.never.reasons))
        case _:
            raise Invalid("The verdict is not valid.", "It says nothing that this version knows.")
