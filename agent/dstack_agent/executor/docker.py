"""Runs jobs in containers of the Docker engine of this machine.

The agent makes the container with Docker's own library, in threads and imported when it is first
needed; a shim starts it and owns its output. What the shim must know to be replaced lies in the
job's folder, but for secrets.
"""

import asyncio
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from dstack_agent.executor import halves
from dstack_agent.executor.container_task import ContainerTask
from dstack_agent.executor.container_visit import visited
from dstack_agent.executor.creating import Creation, create, remove_of
from dstack_agent.executor.engine import Engine, EngineError
from dstack_agent.executor.listening import Spot, listens_beyond_itself
from dstack_agent.executor.port import Ended, Launch, Visit
from dstack_agent.executor.record import ABORTED, STOPPED, note_request, write_durably
from dstack_agent.executor.starting import start_shim
from dstack_agent.executor.watching import (
    ask_to_end,
    find_shim,
    read_exit,
    read_shim,
    until_gone,
    write_lost,
)
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.errand import Errand

CONTAINER = "container.json"
"""In a job's folder: its container, and what the next shim needs to know of it."""
_ADOPTIONS = 20
_AGAIN_SECONDS = 0.1

log = logging.getLogger(__name__)


class DockerExecutor:
    """Runs jobs in containers. Has no state of its own but for launches that are under way.

    Args:
        socket: The engine's socket.
        wake: The agent's datagram socket, for shims to poke; None for no pokes.
        agent: The agent's id, for labels.
        on_pull: Is told about once a second, from another thread, how far an image is pulled: the
            job's folder and a sentence.
        log_bytes: What the log of a job may take on the disk; 0 for no limit.
        shut: What of the machine no container may have, by whatever path.
        registry: Where images of our own are pulled from; empty for nowhere.
    """

    def __init__(
        self,
        socket: Path,
        wake: Path | None = None,
        agent: str = "",
        on_pull: Callable[[Path, str], None] | None = None,
        log_bytes: int = 0,
        shut: tuple[Path, ...] = (),
        registry: str = "",
    ) -> None:
        self._socket = socket
        self._wake = wake
        self._agent = agent
        self._on_pull = on_pull
        self._log_bytes = log_bytes
        self._shut = shut
        self._registry = registry
        self._starting: dict[Path, threading.Event] = {}
        self._adopting: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def kind(self) -> ExecutorKind:
        return ExecutorKind.DOCKER

    async def launch(self, launch: Launch) -> None:
        """Pulls the image if it is not here, makes the container, and has a shim start it.

        Raises:
            Refused: Docker does not run, the image is missing, the engine refuses, a stop came
                first, or the job was started before. `code` is the stable word.
        """
        stopped = self._starting[launch.folder] = threading.Event()
        creation = Creation(
            *(launch, self._socket, self._agent, stopped.is_set, self._on_pull, self._shut),
            self._registry,
        )
        try:
            container, given = await asyncio.to_thread(create, creation)
            task = self._task(launch, container, given)
            stored = task.without_secrets().encode()
            await asyncio.to_thread(write_durably, str(launch.folder / CONTAINER), stored)
            await start_shim(launch.folder, self.kind, task.encode())
        except (MeshError, asyncio.CancelledError):
            stopped.set()
            await self._remove_unstarted(launch.folder)
            raise
        finally:
            self._starting.pop(launch.folder, None)

    async def wait(self, folder: Path) -> Ended:
        """Waits until the container ended; replaces its shim as often as that is killed."""
        for _ in range(_ADOPTIONS):
            shim = await asyncio.to_thread(find_shim, folder)
            await until_gone(shim)
            ended = await asyncio.to_thread(read_exit, folder)
            if ended is not None:
                self._adopting.pop(folder, None)
                # Its shim may have been killed between recording the exit and removing it.
                await asyncio.to_thread(remove_of, self._socket, folder, False)
                return ended
            if not shim.pid:
                await self._remove_unstarted(folder)
                cause = "The agent ended before the job was started."
                return await asyncio.to_thread(write_lost, folder, cause)
            await self._adopt(folder)
        await asyncio.to_thread(remove_of, self._socket, folder, False)
        await asyncio.to_thread(halves.forget, str(folder))
        cause = f"Its shim was killed {_ADOPTIONS} times."
        return await asyncio.to_thread(write_lost, folder, cause)

    async def stop(self, folder: Path, abort: bool) -> None:
        """SIGTERM to the container and SIGKILL after the grace; or SIGKILL at once."""
        starting = self._starting.get(folder)
        if starting is not None:
            starting.set()
        if await asyncio.to_thread(read_shim, folder) is not None:
            reason = ABORTED if abort else STOPPED
            try:
                await asyncio.to_thread(note_request, str(folder), reason)
            except OSError as error:  # only a shim that takes over would have read it
                log.warning("%s: a stop is not noted: %s", folder.name, error)
            await self._adopt(folder)
            await asyncio.to_thread(ask_to_end, folder, abort)

    async def spots(self, folder: Path, ports: Sequence[int]) -> tuple[Spot | None, ...]:
        """Where the engine has put what the container listens on."""
        return await asyncio.to_thread(_spots, folder, tuple(ports))

    def visit(self, folder: Path, errand: Errand) -> AbstractAsyncContextManager[Visit]:
        """A command in the container, as `docker exec` runs one."""
        return visited(folder / CONTAINER, errand)

    def _task(self, launch: Launch, container: str, given: str) -> ContainerTask:
        spec = launch.spec
        return ContainerTask(
            engine=str(self._socket),
            container=container,
            given=given,
            grace_seconds=spec.stop_grace_seconds,
            limit_seconds=spec.max_duration_seconds or 0.0,
            wake=str(self._wake or ""),
            locks=[gpu.uuid for gpu in launch.gpus if not gpu.simulated],
            log_bytes=self._log_bytes,
            hidden=list(launch.secrets.values()),
        )

    async def _adopt(self, folder: Path) -> None:
        """Gives the container a new shim if its own is dead and it has not ended."""
        async with self._adopting[folder]:
            task = await asyncio.to_thread(_orphaned, folder)
            if task is None:
                return
            try:
                await start_shim(folder, self.kind, task)
            except Refused:
                # The dead shim's lock goes with its last thread: look again a moment later.
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _remove_unstarted(self, folder: Path) -> None:
        await asyncio.to_thread(remove_of, self._socket, folder, True)


def _spots(folder: Path, ports: tuple[int, ...]) -> tuple[Spot | None, ...]:
    try:
        task = ContainerTask.decode((folder / CONTAINER).read_bytes())
        published = Engine(task.engine).published(task.container)
    except (OSError, EngineError):  # not made yet, or gone
        return tuple(None for _ in ports)
    return tuple(
        Spot("127.0.0.1", published.ports[port])
        if port in published.ports and listens_beyond_itself(published.process, port)
        else None
        for port in ports
    )


def _orphaned(folder: Path) -> bytes | None:
    """The task for a new shim; None if the job needs none."""
    shim = read_shim(folder)
    if shim is None or not shim.pid or read_exit(folder) is not None:
        return None
    descriptor = shim.open()
    if descriptor is not None:
        os.close(descriptor)
        return None
    return (folder / CONTAINER).read_bytes()
