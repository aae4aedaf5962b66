"""Work that is given up from outside, once or often."""

import asyncio

from dstack_scheduler.abandoning import Abandonable


async def test_work_that_is_given_up_twice_puts_things_in_order() -> None:
    in_order: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            in_order.append("released")
        return "done"

    async with asyncio.TaskGroup() as tasks:
        abandonable: Abandonable[str] = Abandonable(tasks)
        result = tasks.create_task(abandonable.result(work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        abandonable.stop()
        await asyncio.sleep(0)
        abandonable.stop()
    assert result.result() is None
    assert in_order == ["released"]
