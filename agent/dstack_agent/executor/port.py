"""What the agent asks of an executor: launch a job under a shim, wait for it, stop it.

A job lives in a folder of its own and its shim outlives the agent, so every method but `launch`
works on any folder of an earlier life of the agent. The folder is the protocol between agent and
shim; only the executor package knows its files.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dstack_agent.executor.listening import Spot
from dstack_mesh.machine import ExecutorKind, Gpu
from dstack_scheduler.errand import Errand, Outcome, Window
from dstack_scheduler.job import JobSpec
from dstack_scheduler.secret import filled, named_in


@dataclass(frozen=True, slots=True)
class Launch:
    """A job, ready to start.

    Attributes:
        folder: The job's folder; only the agent and the shim write at its top level.
        work: The work directory: code and inputs are in place.
        spec: The job.
        gpus: Cards that were granted.
        env: The whole environment that the job sees; secrets in it are placeholders.
        secrets: Values by name, of those that the job gets and of those that are filled in; go to
            memory only, never to a file, argv or `docker inspect`.
        hidden: Folders of the machine that a process sees nothing of; none for a job of the person
            whose machine it is.
        network: Whether a container gets one.
        ports: That the job listens on; a container's are there for its machine alone.
        ssh: What the keys of its SSH server are made from; empty for a job without one.
    """

    folder: Path
    work: Path
    spec: JobSpec
    gpus: tuple[Gpu, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden: tuple[Path, ...] = ()
    network: bool = True
    ports: tuple[int, ...] = ()
    ssh: str = ""

    @property
    def given(self) -> dict[str, str]:
        """The secrets that the job gets by their names, the tokens of its apps among them."""
        tokens = (app.token for app in self.spec.apps if app.token)
        return {name: self.secrets[name] for name in (*self.spec.secret_names, *tokens)}

    @property
    def filled(self) -> dict[str, str]:
        """The variables in whose values secrets stood, with these filled in."""
        held = {name: value for name, value in self.env.items() if named_in((value,))}
        return {name: filled(value, self.secrets) for name, value in held.items()}


@dataclass(frozen=True, slots=True)
class Ended:
    """How the commands ended.

    Attributes:
        exit_code: The job's own; 128+n for signal n; None if it never started or nobody knows.
        reason: "" for an ordinary exit, else a stable word: out-of-memory, time-limit, stopped,
            aborted, image-missing, command-not-found, docker-error, shim-lost.
        cause: A sentence for people; empty for exit 0.
    """

    exit_code: int | None
    reason: str = ""
    cause: str = ""


class Visit(Protocol):
    """A command that runs beside a job.

    Attributes:
        stdin: Descriptor of what it reads; it does not block.
        outputs: Those of what it writes: output and error, or both together on its terminal.
    """

    stdin: int
    outputs: tuple[int, ...]

    def end_input(self) -> None:
        """It has read all that there is, where it reads from no terminal."""
        ...

    async def interrupt(self) -> None:
        """Sends it what Ctrl-C sends."""
        ...

    async def resize(self, window: Window) -> None:
        """Tells its terminal a new size."""
        ...

    async def outcome(self) -> Outcome:
        """Waits for its end. All that it started has ended then."""
        ...


class Executor(Protocol):
    """One way to run jobs."""

    @property
    def kind(self) -> ExecutorKind: ...

    async def launch(self, launch: Launch) -> None:
        """Starts the job under a shim and returns once the shim has it. Raises MeshError."""
        ...

    async def wait(self, folder: Path) -> Ended:
        """Waits until the job ended, whoever launched it and when."""
        ...

    async def stop(self, folder: Path, abort: bool) -> None:
        """Asks the shim to end the whole process tree: politely first, or at once. Idempotent."""
        ...

    async def spots(self, folder: Path, ports: Sequence[int]) -> tuple[Spot | None, ...]:
        """Where each port of a job is reached from this machine; None if it does not listen."""
        ...

    def visit(self, folder: Path, errand: Errand) -> AbstractAsyncContextManager[Visit]:
        """Runs a command beside a job; at the end of the block nothing of it is left.

        Raises:
            Refused: Nobody gets in.
            Invalid: It cannot be a command.
        """
        ...
