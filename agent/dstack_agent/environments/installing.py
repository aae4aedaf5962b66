"""Runs an installer and hears what it says: its last line while it works, its errors in the end."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dstack_agent.executor import tree
from dstack_agent.executor.process import MARK
from dstack_agent.executor.redaction import Redactor, forms_of
from dstack_agent.executor.walls import Walls
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.frozen import frozen

END_SECONDS = 15.0
"""For an installer to end with all that it started, once it is asked to."""

LOG = "install.log"
"""File of a job with all that installers said."""

MOST_LOG_BYTES = 32 << 20
"""What each installer may add to it."""

_STARTING = Path(__file__).with_name("starting.py")
_COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_ERROR = re.compile(r"\s*(error\b|ERROR\b|\u00d7|Caused by|\w*Error:|critical\b)")
_KEPT_BYTES = 1 << 14
_LINE_BYTES = 300
_CAUSE_LINES = 12

Say = Callable[[str], None]


@frozen
class Installer:
    """A program that installs something.

    Attributes:
        argv: Program, as a path, and arguments.
        cwd: The job's working directory, from which it names files.
        env: Its whole environment.
        walls: What it gets at; None for everything that the agent does.
        hidden: Values that nothing of what it says may hold.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    walls: Walls | None = None
    hidden: Sequence[str] = ()


async def install(installer: Installer, log: Path, say: Say) -> None:
    """Runs it to its end, and ends what it left running. Cancelled, it ends all of it first.

    Args:
        log: In the job's folder.
        say: Is told the last line of what it said, whenever it said something.

    Raises:
        Invalid: A NUL character is in its arguments or its environment.
        Refused: It failed, with its own words as the reason.
    """
    env = {**installer.env, MARK: str(log.parent)}
    if any("\0" in text for text in (*installer.argv, *env, *env.values())):
        raise Invalid("The requirements cannot be installed.", "There is a NUL character in them.")
    process = await _start(installer.argv, installer.cwd)
    assert process.stdout is not None
    try:
        await _tell(process, installer.walls, env)
        lines = await _heard(process.stdout, installer.hidden, log, say)
        code = await process.wait()
    finally:
        await _end(process, f"{MARK}={env[MARK]}".encode())
    if code:
        raise Refused(
            "The requirements were not installed.",
            cause_of(lines) or f"The installer ended with exit code {code}.",
            f"All that it said is in {log}.",
            "not-installed",
        )


async def _start(argv: Sequence[str], cwd: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-E", str(_STARTING), str(os.getpid())),
        *argv,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=1 << 20,
    )


async def _tell(
    process: asyncio.subprocess.Process, walls: Walls | None, env: Mapping[str, str]
) -> None:
    """Tells the walls and the environment, of which nothing may be heeded outside of the walls: the
    loader of programs does what LD_PRELOAD says."""
    assert process.stdin is not None
    within = [list(walls.writable), list(walls.readable), list(walls.masks)] if walls else None
    process.stdin.write(json.dumps({"walls": within, "env": env}).encode())
    with contextlib.suppress(ConnectionError):  # it ended, and says why
        await process.stdin.drain()
    process.stdin.close()


async def _end(process: asyncio.subprocess.Process, mark: bytes) -> None:
    """Has it end all that it started; what it was asked and does not do is done to it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        if not await _ended(process):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await _ended(process)
    if process.returncode is None or process.returncode < 0:
        # Where a kernel lets it, an installer may have killed what was to end it.
        await asyncio.to_thread(tree.end_holders, mark, END_SECONDS)


async def _ended(process: asyncio.subprocess.Process) -> bool:
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:  # or it lives on in what holds its output
        return process.returncode is not None
    return True


async def _heard(
    output: asyncio.StreamReader, hidden: Sequence[str], log: Path, say: Say
) -> list[str]:
    """The last lines of an installer; all of them go to the log."""
    last, room = b"", MOST_LOG_BYTES
    redactor = Redactor({form for value in hidden for form in forms_of(value)})
    with log.open("ab") as file:
        while came := await output.read(1 << 16):
            piece = redactor.take(came)
            file.write(piece[:room])
            room -= min(room, len(piece))
            last = (last + piece)[-_KEPT_BYTES:]
            lines = _lines(last[-_LINE_BYTES:])
            if lines:
                say(lines[-1])
        held = redactor.rest()
        file.write(held[:room])
    return _lines(last + held)


def _lines(output: bytes) -> list[str]:
    text = _COLOURS.sub(b"", output).decode(errors="replace")
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def cause_of(lines: list[str]) -> str:
    """What of an installer's last lines says why it failed."""
    first = next((n for n, line in enumerate(lines) if _ERROR.match(line)), None)
    shown = lines[first:] if first is not None else lines
    return " ".join(line.strip()[:_LINE_BYTES] for line in shown[:_CAUSE_LINES])
