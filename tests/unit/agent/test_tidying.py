"""What jobs left is tidied up at the start of an agent, and again and again."""

import asyncio

from dstack_agent.tidying import Tidying
from support.eventually import eventually_async


async def test_it_is_done_once_the_jobs_are_found_again_and_then_again_and_again() -> None:
    done: list[str] = []

    async def breaks() -> None:
        done.append("breaks")
        raise OSError("the disk is full")

    async def works() -> None:
        done.append("works")

    async def done_often() -> bool:
        return len(done) >= 6

    ready = asyncio.Event()
    running = asyncio.create_task(Tidying([breaks, works], every_seconds=0.001).run(ready))
    await asyncio.sleep(0.01)
    assert done == []
    ready.set()
    await eventually_async(done_often, within=10)
    running.cancel()
    await asyncio.wait([running])
    assert done[:4] == ["breaks", "works"] * 2, "what fails keeps nothing else from being done"
