"""Frames of records that are wrong, and streams that are cut off, left out of, or without end."""

import resource
from collections.abc import AsyncGenerator, Callable

import pytest

from dstack_mesh.faults import Damaged, Invalid, MeshError
from dstack_mesh.v1 import records_pb2 as pb
from dstack_mesh.wire.ending import answer_of
from dstack_mesh.wire.records import FRAME_BYTES, frames
from support.gossiping import Agent, push, stub, whole, word


def changed(frame: pb.RecordFrame, change: Callable[[pb.RecordFrame], None]) -> pb.RecordFrame:
    other = pb.RecordFrame()
    other.CopyFrom(frame)
    change(other)
    return other


def flip_record(frame: pb.RecordFrame) -> None:
    frame.records[0].body = frame.records[0].body[:-1] + b"?"


def flip_signature(frame: pb.RecordFrame) -> None:
    frame.records[0].signature = bytes(70)


def flip_head(frame: pb.RecordFrame) -> None:
    frame.head = frame.head[:-1] + b"?"


def other_key(frame: pb.RecordFrame) -> None:
    frame.key = bytes(91)


def no_head(frame: pb.RecordFrame) -> None:
    frame.head = b""


def long_key(frame: pb.RecordFrame) -> None:
    frame.key = bytes(1000)


def long_signature(frame: pb.RecordFrame) -> None:
    frame.records[0].signature = bytes(1000)


def too_large(frame: pb.RecordFrame) -> None:
    frame.records.add(body=bytes(FRAME_BYTES))


def leave_out(frame: pb.RecordFrame) -> None:
    frame.records.pop()


def noise(frame: pb.RecordFrame) -> None:
    frame.records[0].body = b"noise"


def wrong_part(frame: pb.RecordFrame) -> None:
    frame.part = 3


WRONG: dict[Callable[[pb.RecordFrame], None], type[MeshError]] = {
    flip_record: Damaged,
    flip_signature: Damaged,
    flip_head: Damaged,
    other_key: Damaged,
    no_head: Invalid,
    long_key: Invalid,
    long_signature: Invalid,
    too_large: Invalid,
    noise: Invalid,
    wrong_part: Invalid,
}


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
async def test_frames_that_are_wrong_are_refused_and_change_nothing(
    change: Callable[[pb.RecordFrame], None], writer: Agent, quiet: Agent
) -> None:
    await writer.book.write([word("a"), word("b")])
    [frame] = frames(whole(writer))
    with pytest.raises(WRONG[change]):
        await push(writer, quiet, changed(frame, change))
    assert not quiet.shown()
    assert (await push(writer, quiet, frame)).news == 1


async def test_a_relay_that_leaves_something_out_is_asked_for_more(
    writer: Agent, quiet: Agent
) -> None:
    await writer.book.write([word("a"), word("b")])
    [frame] = frames(whole(writer))
    answer = await push(writer, quiet, changed(frame, leave_out))
    assert (answer.news, answer.behind) == (0, True)
    assert not quiet.shown()


async def test_a_stream_that_never_ends_is_broken_off_and_costs_bounded_memory(
    writer: Agent, quiet: Agent
) -> None:
    await writer.book.write([word("a", bytes(40_000))])
    [frame] = frames(whole(writer))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def endless() -> AsyncGenerator[pb.RecordServicePushRequest]:
        for part in range(100_000):
            frame.part, frame.last = part, False
            yield pb.RecordServicePushRequest(frame=frame)

    with pytest.raises(Invalid):
        await answer_of(stub(writer, quiet).Push(endless(), timeout=30), "ws")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert not quiet.shown()
