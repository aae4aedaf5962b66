"""Commands beside a job, run to their end."""

import asyncio
import contextlib
from pathlib import Path

from dstack_agent.executor.port import Executor, Visit
from dstack_mesh.tunnel.descriptors import read_some, write_all
from dstack_scheduler.errand import Errand, Outcome


async def spoken(visit: Visit, given: bytes = b"") -> tuple[Outcome, list[bytes]]:
    """How a command ended that got some input, and what it wrote on each stream."""

    async def all_of(descriptor: int) -> bytes:
        found = b""
        while data := await read_some(descriptor, 1 << 16):
            found += data
        return found

    async def feed() -> None:
        with contextlib.suppress(BrokenPipeError):
            await write_all(visit.stdin, given)
        visit.end_input()

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(all_of(each)) for each in visit.outputs]
        tasks.create_task(feed())
        outcome = await visit.outcome()
        return outcome, [await each for each in reading]


async def does(
    executor: Executor, folder: Path, *words: str, given: bytes = b""
) -> tuple[Outcome, list[bytes]]:
    async with executor.visit(folder, Errand(words)) as visit:
        return await spoken(visit, given)
