"""A thread is asked in time, and the last thing it has to do is done, whoever waits for it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from dstack_mesh.wire.overlap import Hand, read_ahead


@pytest.mark.parametrize("cancels", [0, 1, 2])
async def test_the_last_thing_is_done_after_the_others_however_often_it_is_cancelled(
    cancels: int,
) -> None:
    hand, may_go, ended = Hand(), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        may_go.wait(10)
        done.append("first")

    def last() -> None:
        done.append("last")
        ended.set()

    async def work() -> None:
        try:
            await hand.do(first)
        finally:
            await hand.end(last)

    working = asyncio.create_task(work())
    for _ in range(cancels):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        working.cancel()
    await asyncio.sleep(0)
    may_go.set()
    await asyncio.wait([working])
    assert await asyncio.to_thread(ended.wait, 10)
    assert done == ["first", "last"]
    assert working.cancelled() == bool(cancels)


async def test_a_last_thing_that_fails_says_so() -> None:
    def fail() -> None:
        raise OSError("The disk is full.")

    with pytest.raises(OSError, match="full"):
        await Hand().end(fail)


async def test_it_is_told_who_waits_for_whom() -> None:
    may_go = threading.Event()
    told: list[bool] = []

    def items() -> Iterator[int]:
        yield 0
        may_go.wait(10)
        yield from range(1, 1000)

    async with aclosing(read_ahead(items(), ready=told.append)) as numbers:
        assert await anext(numbers) == 0
        asyncio.get_running_loop().call_soon(may_go.set)
        assert await anext(numbers) == 1
        assert told == [False]
        async for _ in numbers:
            if told[-1]:
                return
            await asyncio.sleep(0.01)
    pytest.fail("It was never said that one lay ready.")
