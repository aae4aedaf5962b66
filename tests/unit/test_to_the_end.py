"""Blocking work of which nothing stays under way."""

import asyncio
import threading

import pytest

from dstack_mesh.to_the_end import to_the_end


async def test_what_work_returns_and_raises_is_passed_on() -> None:
    assert await to_the_end(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await to_the_end(lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_who_is_cancelled_asks_it_to_stop_and_waits_for_its_end(fails: bool) -> None:
    asked, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert asked.wait(10)
        ended.set()
        if fails:
            raise OSError

    waiting = asyncio.create_task(to_the_end(work, asked.set))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
