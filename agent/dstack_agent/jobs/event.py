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
class CommandsEnded:
    """The shim, or its absence, says how the commands ended."""

    ended: Ended


@frozen
class StopAsked:
    """A person asks for a stop, or for an abort."""

    abort: bool
    cause: str


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
    | CommandsEnded
    | StopAsked
    | Saved
    | NotSaved
)
