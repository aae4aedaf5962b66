"""What an attempt asks the shell to do."""

from dataclasses import dataclass

from dstack_agent.jobs.phase import Verdict
from dstack_scheduler.job import JobState


@dataclass(frozen=True, slots=True)
class Enter:
    """Write the state down and tell whoever watches."""

    state: JobState
    cause: str = ""
    reason: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Lay code and inputs; answer Prepared or NotPrepared."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the shim; answer Launched or NotLaunched."""


@dataclass(frozen=True, slots=True)
class Attend:
    """Wait for the end of the commands and watch the artifacts."""


@dataclass(frozen=True, slots=True)
class EndCommands:
    """Tell the shim to end the job."""

    abort: bool


@dataclass(frozen=True, slots=True)
class Save:
    """Save the artifacts; answer Saved or NotSaved."""

    complete: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Stop what is being done for the attempt: preparing, watching, saving."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Partial artifacts are not kept."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Write the last word, free the machine."""

    verdict: Verdict


Effect = Enter | Prepare | Launch | Attend | EndCommands | Save | Drop | Forget | Finish
