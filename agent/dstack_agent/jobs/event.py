"""What can happen to an attempt."""

from dataclasses import dataclass

from dstack_agent.executor.port import Ended


@dataclass(frozen=True, slots=True)
class Begin:
    """The agent may start now."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Preparation has something to say to people."""

    cause: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Code and inputs are in place."""


@dataclass(frozen=True, slots=True)
class NotPrepared:
    """Preparation failed; the job never started."""

    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class Launched:
    """The shim has the job."""


@dataclass(frozen=True, slots=True)
class NotLaunched:
    """There is no shim."""

    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class CommandsEnded:
    """The shim, or its absence, says how the commands ended."""

    ended: Ended


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A person asks for a stop, or for an abort."""

    abort: bool
    cause: str


@dataclass(frozen=True, slots=True)
class Saved:
    """Artifacts are durable. `warning` says what people should know about them."""

    warning: str = ""


@dataclass(frozen=True, slots=True)
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
