"""What an agent acts on the world through, and a test may put something else in the place of."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dstack_agent.driving import MakeDriver
from dstack_agent.executor.docker import DockerExecutor
from dstack_agent.executor.port import Executor
from dstack_agent.executor.process import ProcessExecutor
from dstack_agent.executor.starting import Spare
from dstack_agent.inventory.docker_socket import DEFAULT_SOCKET, docker_socket
from dstack_agent.jobs.notes import Notes
from dstack_agent.logs.wake import Wake
from dstack_agent.settings import Settings
from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId

MakeExecutors = Callable[[Settings, Wake, PeerId, Notes, Spare], Sequence[Executor]]


def real_executors(
    settings: Settings, wake: Wake, peer_id: PeerId, notes: Notes, spare: Spare
) -> Sequence[Executor]:
    """Processes and containers of this machine."""
    return (
        ProcessExecutor(wake.path, settings.max_log_bytes, spare),
        DockerExecutor(
            docker_socket() or DEFAULT_SOCKET,
            wake.path,
            peer_id,
            notes.say,
            log_bytes=settings.max_log_bytes,
            shut=settings.home.closed,
            registry=settings.images,
        ),
    )


def as_they_are(make: MakeDriver) -> MakeDriver:
    """Real drivers."""
    return make


@frozen
class Ports:
    """By default, the machine itself.

    Attributes:
        engine: Where the container engine's socket is; None if it is on another machine.
        executors: Made once the agent can say who it is.
        drivers: Sends drivers out, given what makes real ones.
    """

    clock: Clock = SystemClock()
    engine: Callable[[], Path | None] = docker_socket
    executors: MakeExecutors = real_executors
    drivers: Callable[[MakeDriver], MakeDriver] = as_they_are
