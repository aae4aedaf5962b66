"""Runs checks at the same time, each with a deadline, and never keeps a person waiting in silence.

A check that hangs (a dead network disk does that to whoever asks for its size) is left to itself in
its thread and told of. Trouble of a check, a bug of ours too, is its finding: the others are shown.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from dstack_cli.checkup.finding import Finding, Topic, failed
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_mesh.trouble import innermost

SAY_EVERY_SECONDS = 1.5

Look = Callable[[], Coroutine[Any, Any, Sequence[Finding]]]


@frozen
class Check:
    """Something to look at; at most `seconds` are waited for it."""

    name: str
    topic: Topic
    look: Look
    seconds: float = 4.0


def blocking(look: Callable[[], Sequence[Finding]]) -> Look:
    """For one that blocks: it is carried out in a thread."""

    async def looked() -> Sequence[Finding]:
        return await _in_a_thread(look)

    return looked


async def carry_out_all(checks: Sequence[Check], say: Callable[[str], None]) -> list[Finding]:
    """What they found, in their order.

    Args:
        say: Told every 1.5 s what is still being looked at.
    """
    async with asyncio.TaskGroup() as tasks:
        running = {one.name: tasks.create_task(_carried_out(one)) for one in checks}
        saying = tasks.create_task(_say_what_is_left(running, say))
        await asyncio.wait(running.values())
        saying.cancel()
    return [finding for task in running.values() for finding in task.result()]


async def _say_what_is_left(
    running: dict[str, asyncio.Task[list[Finding]]], say: Callable[[str], None]
) -> None:
    while True:
        await asyncio.sleep(SAY_EVERY_SECONDS)
        say(f"looking at: {', '.join(name for name, task in running.items() if not task.done())}")


async def _carried_out(check: Check) -> list[Finding]:
    try:
        async with asyncio.timeout(check.seconds):
            found = await check.look()
    except TimeoutError:
        what = f"looking took over {check.seconds:.0f} s"
        found = [
            failed(check.name, "hangs", what, "look for a network disk or a device that hangs")
        ]
    except Exception as error:
        if os.environ.get("DSTACK_DEBUG") == "1":
            raise
        found = [_broken_off(check.name, innermost(error))]
    return [
        Finding(one.check, one.grade, one.message, one.fix, one.cause, check.topic) for one in found
    ]


def _broken_off(check: str, error: BaseException) -> Finding:
    match error:
        case MeshError():
            return failed(check, error.code, str(error), error.hint)
        case OSError():
            return failed(check, "os-error", f"cannot be looked at: {error}")
        case _:
            what = f"dstack has a bug: {type(error).__name__}: {error}".rstrip(": ")
            return failed(check, "broken", what, "DSTACK_DEBUG=1 dstack doctor, and report it")


async def _in_a_thread(look: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    # Not the loop's own pool: its threads are waited for at the end, however long that takes.
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Sequence[Finding]] = loop.create_future()

    def settle(found: Sequence[Finding] | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(found or ())

    def work() -> None:
        try:
            found = look()
        except Exception as error:  # raised again where it is awaited
            _tell(loop, settle, None, error)
        else:
            _tell(loop, settle, found, None)

    threading.Thread(target=work, daemon=True).start()
    return await done


def _tell(
    loop: asyncio.AbstractEventLoop,
    settle: Callable[[Sequence[Finding] | None, Exception | None], None],
    found: Sequence[Finding] | None,
    error: Exception | None,
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is over: nobody waits any more
        loop.call_soon_threadsafe(settle, found, error)
