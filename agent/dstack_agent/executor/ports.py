"""The ports of a job: chosen once, and noted in its folder for whoever wants to reach it later."""

from pathlib import Path

from dstack_agent.executor.free_ports import free_ports
from dstack_agent.executor.listening import is_taken
from dstack_mesh.faults import Refused
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.job import JobSpec

PORTS = "ports"
"""In a job's folder: its ports in order, one a line."""


def settle_ports(spec: JobSpec, folder: Path) -> tuple[int, ...]:
    """The ports that a job listens on; the same ones whenever it is asked again.

    Raises:
        Refused: Somebody else on the machine listens on one that the job names.
    """
    if noted := noted_ports(folder):
        return noted
    if spec.executor is ExecutorKind.PROCESS:
        for port in filter(None, spec.ports):
            _check_free(port)
    ports = free_ports(spec.ports)
    if ports:
        (folder / PORTS).write_text("".join(f"{port}\n" for port in ports))
    return ports


def noted_ports(folder: Path) -> tuple[int, ...]:
    """The ports of a job that was prepared; none of one that was not."""
    try:
        return tuple(map(int, (folder / PORTS).read_text().split()))
    except FileNotFoundError:
        return ()


def _check_free(port: int) -> None:
    if is_taken(port):
        raise Refused(
            f"Port {port} of the machine is in use.",
            "The workflow names it, and somebody else listens there.",
            "Name another one, or write `ports: 1` and listen on $PORT_0.",
            "port-taken",
        )
