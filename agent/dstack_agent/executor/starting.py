"""Starts a shim and hears from it that it has the job."""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import IO

from dstack_agent.executor import record, spare
from dstack_agent.executor.watching import find_shim, read_shim
from dstack_mesh.faults import Broken, Refused, TooLate
from dstack_mesh.machine import ExecutorKind

_SHIM = Path(__file__).with_name("shim.py")
_START_SECONDS = 20.0
_REST_SECONDS = 0.2
"""After a spare was taken: the job that took it starts first."""
_END_SECONDS = 2.0
"""For a killed shim to be gone: one that waits for a dead disk is left behind."""

log = logging.getLogger(__name__)


class Spare:
    """A shim for processes that is started already: a job starts 12 ms sooner.

    There is one while `run` runs, but for the moment after it was taken. A job that finds none
    starts its own.
    """

    def __init__(self) -> None:
        self._ready: Process | None = None
        self._wanted = asyncio.Event()

    @property
    def waiting(self) -> int:
        """The process that waits for a job; 0 if there is none now."""
        return self._ready.pid if self._ready is not None else 0

    async def run(self) -> None:
        """Keeps one ready until cancelled."""
        try:
            while True:
                self._wanted.clear()
                try:
                    await self._start()
                except OSError as error:
                    log.warning("no spare shim can be started: %s", error)
                await self._wanted.wait()
                await asyncio.sleep(_REST_SECONDS)
        finally:
            if (unused := self.take()) is not None:
                await unused.communicate(b"")

    async def _start(self) -> None:
        # asyncio may wait for ever for a process whose start was cancelled half-way, so it is
        # started to the end and ended by `run`.
        starting = asyncio.ensure_future(_spawn(spare.NO_FOLDER, "process", None))
        try:
            self._ready = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._ready = await starting
            raise

    def take(self) -> Process | None:
        """The spare, if it is ready; it is the caller's from now on."""
        taken, self._ready = self._ready, None
        return taken if taken is not None and taken.returncode is None else None

    def refill(self) -> None:
        """Has the next one started, if one was taken."""
        if self._ready is None:
            self._wanted.set()


async def start_shim(
    folder: Path,
    kind: ExecutorKind,
    task: bytes,
    waiting: Spare | None = None,
    seconds: float = _START_SECONDS,
) -> None:
    """Returns once a shim has the job; its task goes over standard input.

    That may be one which an earlier life of the agent started and which was slow.

    Args:
        waiting: Whence a shim is taken that is started already.
        seconds: How long it may take to answer.

    Raises:
        Refused: The shim may not start the job, or no process can be made.
        Broken: The shim failed.
        TooLate: It did not answer; the job never starts.
    """
    try:
        await _start(folder, kind, task, waiting, seconds)
    except TooLate:
        # From here on the job is the shim's or nobody's: an answer may come later still.
        if not (await asyncio.to_thread(find_shim, folder)).pid:
            raise
    except Refused:
        if not await asyncio.to_thread(_is_owned, folder):
            raise


def _is_owned(folder: Path) -> bool:
    """Whether a shim that lives has the job."""
    shim = read_shim(folder)
    descriptor = shim.open() if shim else None
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


async def _start(
    folder: Path, kind: ExecutorKind, task: bytes, waiting: Spare | None, seconds: float
) -> None:
    word = "container" if kind is ExecutorKind.DOCKER else "process"
    errors = folder / record.ERRORS
    answer = b""
    if waiting is not None and (shim := waiting.take()) is not None:
        answer = await _answer(shim, spare.told(str(folder), task), seconds)
        waiting.refill()
    if not answer:
        # Also if the spare died: a job is claimed once, so it cannot start twice.
        try:
            with await asyncio.to_thread(errors.open, "ab") as stderr:
                shim = await _spawn(str(folder), word, stderr)
        except OSError as error:
            raise unprepared(error) from error
        answer = await _answer(shim, task, seconds)
    said = answer.decode(errors="replace").strip()
    if said == "ok":
        return
    if said:
        code, _, why = said.partition(" ")
        raise Refused("The job cannot be started.", why, code=code)
    trouble = (await asyncio.to_thread(errors.read_text, errors="replace")).strip()
    last = trouble.splitlines()[-1][-500:] if trouble else "it said nothing"
    raise Broken("The job's shim failed.", f"Its last word: {last}", f"{errors} has the rest")


async def _spawn(folder: str, word: str, stderr: IO[bytes] | None) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-E", str(_SHIM), folder, word),
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        start_new_session=True,
    )


async def _answer(shim: Process, told: bytes, seconds: float) -> bytes:
    """What a shim says to its task. Raises TooLate."""
    try:
        async with asyncio.timeout(seconds):
            return (await shim.communicate(told))[0]
    except TimeoutError as error:
        if shim.returncode is None:
            shim.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(shim.wait(), _END_SECONDS)
        raise TooLate("The job's shim does not answer.") from error


def unprepared(error: OSError) -> Refused:
    """What the system did not allow on the way to a shim."""
    return Refused("The job cannot be started.", f"{error}.", code="not-started")
