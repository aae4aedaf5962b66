"""What can happen to an attempt."""

from dstack_agent.executor.port import Ended
from dstack_mesh.frozen import frozen


@frozen
class Begin:
    """The agent may start now."""


@frozen
class Noted:
    """Preparation has something to say to people."""

    cause: str


@frozen
class Prepared:
    """Code and inputs are in place."""


@frozen
class NotPrepared:
    """Preparation failed; the job never started."""

    reason: str
    cause: str


@frozen
class Launched:
    """The shim has the job."""


@frozen
class NotLaunched:
    """There is no shim."""

    reason: str
    cause: str


@frozen
class Reloaded:
    """The code of the running job was replaced for the first time."""


@frozen
class CommandsEnded:
    """The shim, or its absence, says how the commands ended."""

    ended: Ended


@frozen
class StopAsked:
    """Somebody asks for a stop, or for an abort.

    Attributes:
        reason: Why it will have ended; empty for the ordinary word.
        grace_seconds: What the commands have at most to end by themselves; None for what the job
            brought along.
    """

    abort: bool
    cause: str
    reason: str = ""
    grace_seconds: float | None = None


@frozen
class Saved:
    """Artifacts are durable. `warning` says what people should know about them."""

    warning: str = ""


@frozen
class NotSaved:
    """Artifacts could not be saved."""

    reason: str
    cause: str


Event = (
    Begin
    | Noted
    | Prepared
    | NotPrepared
    | Launched
    | NotLaunched
    | Reloaded
    | CommandsEnded
    | StopAsked
    | Saved
    | NotSaved
)
