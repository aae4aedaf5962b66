"""Has the host do something: sends the source of a module and a request, hears its answer.

Everything travels on the standard streams of one command, so that nothing has to be there but a
Python, and no secret is ever in an argument.
"""

import asyncio
import json
import shlex
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import resources
from typing import Any

from dstack_cli.enrolling.ssh import FAILED, Ssh, end
from dstack_cli.output.port import Json
from dstack_mesh.faults import Broken, Busy, MeshError, Refused

MARK = "\x1e"
"""Begins a line of ours; the host's start-up files may print others."""

BOOT = "import json,sys;exec(json.loads(sys.stdin.buffer.readline()))"

OPENING = f"""
import types
task = json.loads(sys.stdin.buffer.readline())
def say(**words):
    print("{MARK}" + json.dumps(words), flush=True)
for name in task["packages"]:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in task["modules"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
try:
    say(answer=module.answer(task["request"], sys.stdin.buffer, lambda told: say(told=told)))
except OSError as error:
    say(trouble=dict(number=error.errno, message=str(error)))
except Exception as error:
    say(bug=f"{{type(error).__name__}}: {{error}}")
"""

PACKAGES = ("dstack_cli", "dstack_cli.enrolling", "dstack_cli.enrolling.there")
WIRE_PIECE = 1 << 18
ENOSPC, EDQUOT, EACCES, EROFS = 28, 122, 13, 30

Request = Mapping[str, Json]


async def nothing() -> AsyncIterator[bytes]:
    """No bytes after a request."""
    return
    yield b""


class Host:
    """A host with a Python.

    Args:
        ssh: Leads there.
        python: Path of the Python there.
    """

    def __init__(self, ssh: Ssh, python: str) -> None:
        self.ssh = ssh
        self.python = python

    async def ask(
        self,
        module: str,
        request: Request,
        doing: str,
        body: AsyncIterator[bytes] | None = None,
        heard: Callable[[str], None] = lambda told: None,
    ) -> dict[str, Any]:
        """What the module of this name answers.

        Args:
            module: In `enrolling/there/`.
            request: What it is asked.
            doing: For the sentence of a lost connection: "sending what is missing".
            body: Bytes after the request.
            heard: Told how far it got.

        Raises:
            MeshError: The connection broke, or the host refuses; with the reason.
        """
        process = await self.ssh.start(f"{shlex.quote(self.python)} -I -c {shlex.quote(BOOT)}")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_send(process, module, request, body or nothing()))
                errors = tasks.create_task(_read_all(process.stderr))
                answer = await _hear(process, heard)
            await process.wait()
        finally:
            await end(process)
        if answer is None:
            raise await self._no_answer(process, errors.result(), doing)
        return answer

    async def _no_answer(self, process: Process, said: bytes, doing: str) -> MeshError:
        if process.returncode == FAILED and not await self.ssh.alive():
            return self.ssh.lost(doing)
        last = said.decode(errors="replace").strip().splitlines()[-3:]
        return Refused(
            f"{self.ssh.target} did not answer while {doing}.",
            "\n".join(last) or f"Its Python ended with {process.returncode} and said nothing.",
            code="host-silent",
        )


async def _send(
    process: Process, module: str, request: Request, body: AsyncIterator[bytes]
) -> None:
    assert process.stdin is not None
    task = {"packages": PACKAGES, "modules": _modules(module), "request": request}
    head = f"{json.dumps(OPENING)}\n{json.dumps(task)}\n"
    try:
        process.stdin.write(head.encode())
        async for piece in body:
            process.stdin.write(piece)
            await process.stdin.drain()
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # what it says, or does not say, tells why


async def _hear(process: Process, heard: Callable[[str], None]) -> dict[str, Any] | None:
    assert process.stdout is not None
    answer: dict[str, Any] | None = None
    async for line in process.stdout:
        text = line.decode(errors="replace")
        if not text.startswith(MARK):
            continue
        words: dict[str, Any] = json.loads(text[1:])
        if "told" in words:
            heard(str(words["told"]))
        elif "trouble" in words:
            raise _of_the_host(int(words["trouble"]["number"] or 0), words["trouble"]["message"])
        elif "bug" in words:
            raise Broken("What runs on the host has a bug.", str(words["bug"]))
        else:
            answer = words["answer"]
    return answer


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    return await stream.read()


def _of_the_host(number: int, message: str) -> MeshError:
    """What the host's system refuses."""
    if number in (ENOSPC, EDQUOT):
        return Busy(
            "The disk of the host is full.",
            f"It says: {message}.",
            "Free some space there and run this again, or choose another folder: --remote-home DIR",
            code="host-disk-full",
        )
    if number in (EACCES, EROFS):
        return Refused(
            "A folder of the host cannot be written.",
            f"It says: {message}.",
            "Choose another folder there: --remote-home DIR",
            code="host-not-writable",
        )
    return Refused("The host refuses.", f"It says: {message}.", code="host-refuses")


def _modules(module: str) -> dict[str, str]:
    """The module's source and of what it imports, each after what it needs."""
    folder = resources.files("dstack_cli.enrolling.there")
    names = dict.fromkeys(("places", *(("serve",) if module == "remove" else ()), module))
    return {f"{PACKAGES[-1]}.{name}": (folder / f"{name}.py").read_text() for name in names}
