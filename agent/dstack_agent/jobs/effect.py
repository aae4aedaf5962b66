"""What an attempt asks the shell to do."""

from dstack_agent.jobs.phase import Verdict
from dstack_mesh.frozen import frozen
from dstack_scheduler.job import JobState


@frozen
class Enter:
    """Write the state down and tell whoever watches."""

    state: JobState
    cause: str = ""
    reason: str = ""
    exit_code: int | None = None


@frozen
class Prepare:
    """Lay code and inputs; answer Prepared or NotPrepared."""


@frozen
class Launch:
    """Start the shim; answer Launched or NotLaunched."""


@frozen
class Attend:
    """Wait for the end of the commands and watch the artifacts."""


@frozen
class EndCommands:
    """Tell the shim to end the job; after the grace, if one is given, to end it at once."""

    abort: bool
    grace_seconds: float | None = None


@frozen
class Save:
    """Save the artifacts; answer Saved or NotSaved."""

    complete: bool


@frozen
class Drop:
    """Stop what is being done for the attempt: preparing, watching, saving."""


@frozen
class Forget:
    """Partial artifacts are not kept."""


@frozen
class Finish:
    """Write the last word, free the machine."""

    verdict: Verdict


Effect = Enter | Prepare | Launch | Attend | EndCommands | Save | Drop | Forget | Finish
