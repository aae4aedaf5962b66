"""Runs jobs as processes of the agent's user."""

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from dstack_agent.executor import sshd, tree, vault
from dstack_agent.executor.conda import hook
from dstack_agent.executor.environment import HOME, TMP, VIRTUAL_ENVIRONMENT, python_of
from dstack_agent.executor.listening import Spot, own_spot
from dstack_agent.executor.port import Ended, Launch, Visit
from dstack_agent.executor.pythons import Interpreter
from dstack_agent.executor.starting import Spare, start_shim, unprepared
from dstack_agent.executor.task import Task
from dstack_agent.executor.virtualenv import is_conda, layer_of, make_virtual_environment
from dstack_agent.executor.visiting import visited
from dstack_agent.executor.walls import Walls, outside, walls_of
from dstack_agent.executor.watching import (
    Shim,
    ask_to_end,
    find_shim,
    read_exit,
    read_shim,
    until_gone,
    write_lost,
)
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.errand import Errand
from dstack_scheduler.providers.sshd import START
from dstack_scheduler.shell import script

SECRETS_DIR = "DSTACK_SECRETS_DIR"
"""Says where a job finds its secrets as files."""

MARK = "DSTACK_JOB_FOLDER"
"""In the environment of every process of a job: how they are found once the shim is dead."""

_LONGEST_ARGUMENT = 100_000
_CLEAN_SECONDS = 10.0


class ProcessExecutor:
    """Runs jobs as processes. Has no state of its own: the job's folder has it.

    Args:
        wake: The agent's datagram socket, for shims to poke; None for no pokes.
        log_bytes: What the log of a job may take on the disk; 0 for no limit.
        spare: Whence a shim is taken that is started already; None for none.
        masked: Whether jobs of others have masks; by default, where the system lets them.
    """

    def __init__(
        self,
        wake: Path | None = None,
        log_bytes: int = 0,
        spare: Spare | None = None,
        masked: bool | None = None,
    ) -> None:
        self._masked = masked
        self._wake = wake
        self._log_bytes = log_bytes
        self._spare = spare

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.PROCESS

    async def launch(self, launch: Launch) -> None:
        """Starts the job and returns once its shim has it.

        Raises:
            Refused: It was started before, a card is in use, or there is no shell.
            Invalid: A NUL character is in the commands or the environment.
        """
        task = await asyncio.to_thread(_prepare, launch, self._wake, self._log_bytes, self._masked)
        await start_shim(launch.folder, self.kind, task, self._spare)

    async def wait(self, folder: Path) -> Ended:
        """Waits until the job ended; one whose shim died is ended and called lost."""
        shim = await asyncio.to_thread(find_shim, folder)
        await until_gone(shim)
        return await asyncio.to_thread(_ended, folder, shim)

    async def stop(self, folder: Path, abort: bool) -> None:
        """SIGTERM to the whole tree and SIGKILL after the grace; or SIGKILL at once."""
        await asyncio.to_thread(ask_to_end, folder, abort)

    async def spots(self, folder: Path, ports: Sequence[int]) -> tuple[Spot | None, ...]:
        """Where the job's own processes listen, and nobody else's."""
        return await asyncio.to_thread(_spots, folder, tuple(ports))

    def visit(self, folder: Path, errand: Errand) -> AbstractAsyncContextManager[Visit]:
        """A command beside the job, started by its shim as the job was."""
        return visited(folder, errand, errand.words or _shell_words(bool(errand.terminal)))


def shell() -> str:
    """The shell that runs commands here: bash, or sh where there is none. Raises Refused."""
    found = shutil.which("bash") or shutil.which("sh", path=os.defpath)
    if found is None:
        raise Refused("There is no shell on this machine.", hint="Install bash.", code="no-shell")
    return found


def _shell_words(terminal: bool) -> tuple[str, ...]:
    """A shell for a person, or for what is written to it. Raises Refused."""
    found = shell()
    if not terminal or not found.endswith("bash"):
        return (found,)
    return (found, "-c", 'exec "$0" --rcfile <(printf %s "$1") -i', found, sshd.BASHRC)


def _spots(folder: Path, ports: tuple[int, ...]) -> tuple[Spot | None, ...]:
    shim = read_shim(folder)
    descriptor = shim.open() if shim is not None else None
    if shim is None or descriptor is None:
        return tuple(None for _ in ports)
    try:
        return tuple(own_spot(shim.pid, port) for port in ports)
    finally:
        os.close(descriptor)


def _prepare(launch: Launch, wake: Path | None, log_bytes: int, masked: bool | None) -> bytes:
    spec = launch.spec
    try:
        (launch.folder / TMP).mkdir(mode=0o700, exist_ok=True)
        python = python_of(spec, os.environ)
        make_virtual_environment(python, launch.folder / VIRTUAL_ENVIRONMENT)
        command = _command(launch)
    except OSError as error:
        raise unprepared(error) from error
    given = launch.given
    walls, kept = _kept_within(launch, python, masked) if launch.hidden else (None, {})
    env = {**launch.env, **launch.filled, **kept, **given, **_found_at(launch)}
    task = Task(
        argv=command,
        cwd=str(launch.work / spec.working_dir),
        env={**env, **_entered_by(launch, env), MARK: str(launch.folder)},
        grace_seconds=spec.stop_grace_seconds,
        limit_seconds=spec.max_duration_seconds or 0.0,
        wake=str(wake or ""),
        locks=[gpu.uuid for gpu in launch.gpus if not gpu.simulated],
        log_bytes=log_bytes,
        secrets=given,
        hidden=list(launch.secrets.values()),
        walled=walls is not None,
        writable=list(walls.writable) if walls else [],
        readable=list(walls.readable) if walls else [],
        masks=list(walls.masks) if walls else [],
    )
    try:
        return task.encode()
    except ValueError as error:
        raise Invalid("The job cannot be started.", f"There is {error}.") from error


def _kept_within(
    launch: Launch, python: Interpreter, masked: bool | None
) -> tuple[Walls, dict[str, str]]:
    """The walls of a job that is not the person's own, and what of its environment they change."""
    home = launch.folder / HOME
    home.mkdir(mode=0o700, exist_ok=True)
    search = launch.env.get("PATH", "")
    place = vault.place(str(launch.folder))
    layer = layer_of(launch.folder / VIRTUAL_ENVIRONMENT)
    within = place and f"{place}/{vault.FILES}"
    walls = walls_of(launch.hidden, launch.folder, python.path, within, masked=masked)
    if layer is not None:
        walls = replace(walls, readable=(*walls.readable, str(layer)))
    seen = outside(search, launch.hidden, python.path)
    # Its own folder is in the hidden one of the agent, and its environment comes first.
    own = str(launch.folder / VIRTUAL_ENVIRONMENT / "bin")
    below = str(layer / "bin") if layer is not None and is_conda(layer) else ""
    return walls, {"HOME": str(home), "PATH": os.pathsep.join(filter(None, (own, below, seen)))}


def _found_at(launch: Launch) -> dict[str, str]:
    """Where the job finds its secrets as files."""
    place = vault.place(str(launch.folder)) if launch.given else ""
    return {SECRETS_DIR: f"{place}/{vault.FILES}"} if place else {}


def _entered_by(launch: Launch, env: Mapping[str, str]) -> dict[str, str]:
    """Where the job finds its SSH server, which is made ready. Raises Refused."""
    app = next((app for app in launch.spec.apps if app.ssh), None)
    if app is None:
        return {}
    port, home = launch.ports[app.port], env.get("HOME", "")
    try:
        return {START: str(sshd.lay(launch.folder, port, launch.ssh, shell(), home))}
    except OSError as error:
        raise unprepared(error) from error


def _command(launch: Launch) -> list[str]:
    commands = launch.spec.commands
    commands = hook(commands, os.environ, launch.hidden) + script(commands)
    if len(commands.encode()) <= _LONGEST_ARGUMENT:
        return [shell(), "-c", commands]
    path = launch.folder / "commands.sh"
    path.write_text(commands)
    return [shell(), "-c", '. "$0"', str(path)]


def _ended(folder: Path, shim: Shim) -> Ended:
    recorded = read_exit(folder)
    if recorded is not None:
        return recorded
    if not shim.pid:
        return write_lost(folder, "The agent ended before the job was started.")
    if not shim.of_this_boot:
        return write_lost(folder, "The machine was restarted while the job ran.")
    left = tree.end_holders(f"{MARK}={folder}".encode(), _CLEAN_SECONDS)
    vault.clear(str(folder))
    also = f" Processes that could not be ended: {sorted(left)}." if left else ""
    return write_lost(folder, f"The process that kept the job's output was killed.{also}")
