"""One way of bytes: all of it arrives, a slow reader holds a window, and who cheats is caught."""

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.faults import Invalid
from dstack_mesh.tunnel.flow import WINDOW_BYTES
from dstack_mesh.tunnel.frame import PIECE_BYTES, Broken, Credit, Data, End, Frame, Made
from dstack_mesh.tunnel.way import Incoming, Outgoing


async def nothing(frame: Frame) -> None:
    """Takes what is said."""


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 3 * WINDOW_BYTES), st.randoms(use_true_random=False))
async def test_all_of_it_arrives_and_no_more_than_a_window_is_on_its_way(
    size: int, chance: Random
) -> None:
    sent, arrived = chance.randbytes(size), bytearray()
    left = sent

    async def take(frame: Frame) -> None:
        incoming.heard(frame)

    async def back(frame: Frame) -> None:
        outgoing.heard(frame)

    async def read(most: int) -> bytes:
        nonlocal left
        data, left = left[: (count := chance.randint(1, most))], left[count:]
        return data

    async def write(data: bytes) -> None:
        assert len(data) <= WINDOW_BYTES
        for _ in range(chance.randint(0, 2)):
            await asyncio.sleep(0)
        arrived.extend(data)

    outgoing, incoming = Outgoing(take), Incoming(back)
    async with asyncio.timeout(20):
        await asyncio.gather(outgoing.run(read), incoming.run(write))
    assert arrived == sent


async def test_nobody_sends_more_than_a_window_to_who_takes_nothing() -> None:
    said: list[Frame] = []

    async def say(frame: Frame) -> None:
        said.append(frame)

    async def read(most: int) -> bytes:
        return b"x" * most

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Outgoing(say).run(read)
    assert sum(len(frame.data) for frame in said if isinstance(frame, Data)) == WINDOW_BYTES


async def test_what_nobody_takes_any_more_is_said_and_not_sent() -> None:
    said: list[Frame] = []

    async def say(frame: Frame) -> None:
        said.append(frame)

    async def gone(data: bytes) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    async def never(most: int) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    incoming = Incoming(say)
    incoming.heard(Data(b"x"))
    with pytest.raises(BrokenPipeError):
        await incoming.run(gone)
    assert said == [Broken("Broken pipe")]
    outgoing = Outgoing(say)
    outgoing.heard(Broken())
    await outgoing.run(never)
    assert said[1:] == [End()]


@pytest.mark.parametrize("frame", [Made(), Data(b"x"), End()])
def test_who_sends_is_told_of_credit_alone(frame: Frame) -> None:
    with pytest.raises(Invalid):
        Outgoing(nothing).heard(frame)


@pytest.mark.parametrize("frame", [Made(), Credit(1), Broken()])
def test_who_receives_is_told_of_bytes_alone(frame: Frame) -> None:
    with pytest.raises(Invalid):
        Incoming(nothing).heard(frame)


def test_bytes_and_credit_that_were_not_granted_are_refused() -> None:
    incoming = Incoming(nothing)
    for _ in range(WINDOW_BYTES // PIECE_BYTES):
        incoming.heard(Data(b"x" * PIECE_BYTES))
    with pytest.raises(Invalid):
        incoming.heard(Data(b"x"))
    with pytest.raises(Invalid):
        Outgoing(nothing).heard(Credit(1))
