"""One connection by the person's own ssh: her configuration, keys, agent and jump hosts.

The first ssh authenticates and goes to the background as the master of a control socket; everything
else travels through it. Its checks of host keys are never touched. A later ssh never connects by
itself: where the master is gone, it fails.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from dstack_cli.enrolling.ssh_trouble import lost, no_ssh, of_ssh
from dstack_cli.enrolling.target import Target
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen

FAILED = 255
"""ssh's exit code for its own trouble; others are the remote command's."""

END_SECONDS = 3.0


@frozen
class Dialing:
    """How a person wants ssh called.

    Attributes:
        target: Where to.
        identity: A key file; "" for what ssh chooses.
        options: `-o` options, as `Name=value`.
    """

    target: Target
    identity: str = ""
    options: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a person's own command line would have, without the host."""
        identity = ("-i", self.identity) if self.identity else ()
        return (*identity, *(word for option in self.options for word in ("-o", option)))


async def end(process: Process) -> None:
    """Ends a process that may have ended, and waits for it.

    Not by its own `kill`, which looks whether it ended and so takes the exit code from whoever
    waits for it.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()


class Ssh:
    """An open connection. `lost` is the error for a connection that broke."""

    def __init__(self, dialing: Dialing, control: Path) -> None:
        self.target = dialing.target
        self._dialing = dialing
        self._control = control

    async def start(self, command: str, stdin: int = PIPE) -> Process:
        """Starts a command of the host's shell; its streams are pipes."""
        return await asyncio.create_subprocess_exec(
            *("ssh", "-F", "none", "-S", str(self._control), "-T", "-o", "BatchMode=yes"),
            *("-o", "ControlMaster=no", "-o", "ProxyCommand=exit 1"),
            *("--", self.target.host, command),
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
            # Ctrl-C ends us, and we end it; and it has no business with the terminal.
            start_new_session=True,
        )

    async def forward_back(self, port: int) -> int | None:
        """Has a free port of the host's loopback lead to a port of ours; None if it may not."""
        ended, said = await self._master("forward", "-R", f"127.0.0.1:0:127.0.0.1:{port}")
        return int(said) if ended == 0 and said.isdigit() else None

    async def alive(self) -> bool:
        """Whether the connection stands."""
        return (await self._master("check"))[0] == 0

    def lost(self, doing: str) -> MeshError:
        """The error for a connection that broke."""
        return lost(self.target, doing)

    async def host_name(self) -> str:
        """Where ssh connects to, once its configuration was read."""
        asked = await asyncio.create_subprocess_exec(
            *("ssh", "-G", *self._dialing.words, *self.target.words),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
        )
        output, _ = await asked.communicate()
        for line in output.decode(errors="replace").splitlines():
            word, _, value = line.partition(" ")
            if word == "hostname":
                return value
        return self.target.host

    async def _master(self, wish: str, *words: str) -> tuple[int, str]:
        asked = await asyncio.create_subprocess_exec(
            *("ssh", "-F", "none", "-S", str(self._control), "-O", wish, *words),
            *("--", self.target.host),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,
        )
        output, _ = await asked.communicate()
        return asked.returncode or 0, output.decode(errors="replace").strip()

    async def close(self) -> None:
        """Ends the connection."""
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._master("exit")
        except TimeoutError:
            pass


@contextlib.asynccontextmanager
async def connected(dialing: Dialing) -> AsyncGenerator[Ssh]:
    """A connection while the block runs. On a terminal ssh may ask for a password or a host key.

    Raises:
        MeshError: ssh is not here or does not get through, with the reason.
    """
    if shutil.which("ssh") is None:
        raise no_ssh()
    # Short: a socket's path has 107 bytes at most, and ssh adds seventeen while it makes one.
    with tempfile.TemporaryDirectory(prefix="dstack-ssh-", dir=_short_folder()) as folder:
        connection = Ssh(dialing, Path(folder) / "s")
        await _dial(dialing, Path(folder))
        try:
            yield connection
        finally:
            await asyncio.shield(connection.close())


async def _dial(dialing: Dialing, folder: Path) -> None:
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    said = folder / "said"
    # Into a file: the master stays, and would keep a pipe open.
    with said.open("wb") as errors:
        dialled = await asyncio.create_subprocess_exec(
            *_dial_words(dialing, folder / "s", asks),
            stdin=None if asks else DEVNULL,
            stdout=DEVNULL,
            stderr=errors,
        )
        ended = await dialled.wait()
    if ended != 0:
        raise of_ssh(dialing.target, said.read_text(errors="replace"))


def _dial_words(dialing: Dialing, control: Path, asks: bool) -> Sequence[str]:
    return (
        *("ssh", "-M", "-S", str(control), "-N", "-f", "-T", *dialing.words),
        *("-o", f"BatchMode={'no' if asks else 'yes'}", "-o", "ControlPersist=no"),
        *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
        *("-o", "ConnectTimeout=15", "-o", "ClearAllForwardings=yes"),
        *("-o", "RemoteCommand=none", "-o", "RequestTTY=no", "-o", "LogLevel=INFO"),
        *dialing.target.words,
    )


def _short_folder() -> str | None:
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 40 else "/tmp"
