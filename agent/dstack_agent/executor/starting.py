"""Starts a shim and hears from it that it has the job."""

import asyncio
import sys
from pathlib import Path

from dstack_agent.executor import record
from dstack_mesh.faults import Broken, Refused, TooLate
from dstack_mesh.machine import ExecutorKind

_SHIM = Path(__file__).with_name("shim.py")
_START_SECONDS = 20.0


async def start_shim(folder: Path, kind: ExecutorKind, task: bytes) -> None:
    """Returns once the shim said that the job is its own; its task goes over standard input.

    Raises:
        Refused: The shim may not start the job, or no process can be made.
        Broken: The shim failed.
        TooLate: It did not answer.
    """
    word = "container" if kind is ExecutorKind.DOCKER else "process"
    command = (sys.executable, "-I", "-S", "-E", str(_SHIM), str(folder), word)
    errors = folder / record.ERRORS
    try:
        with await asyncio.to_thread(errors.open, "ab") as stderr:
            shim = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
    except OSError as error:
        raise unprepared(error) from error
    try:
        async with asyncio.timeout(_START_SECONDS):
            answer, _ = await shim.communicate(task)
    except TimeoutError as error:
        raise TooLate("The job's shim does not answer.") from error
    said = answer.decode(errors="replace").strip()
    if said == "ok":
        return
    if said:
        code, _, why = said.partition(" ")
        raise Refused("The job cannot be started.", why, code=code)
    trouble = (await asyncio.to_thread(errors.read_text, errors="replace")).strip()
    last = trouble.splitlines()[-1][-500:] if trouble else "it said nothing"
    raise Broken("The job's shim failed.", f"Its last word: {last}", f"{errors} has the rest")


def unprepared(error: OSError) -> Refused:
    """What the system did not allow on the way to a shim."""
    return Refused("The job cannot be started.", f"{error}.", code="not-started")
