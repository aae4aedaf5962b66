"""Everything an attempt has to tell, in order, and a bell for those who follow it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dstack_agent.bell import Bell
from dstack_scheduler.job import ArtifactSaved, Fin, JobKey, StateChange

Told = StateChange | ArtifactSaved | Fin


class Chronicle:
    """States and artifacts of an attempt from its beginning, and its last word.

    `bell` rings when something was told and when the job wrote to its log.
    """

    def __init__(self, told: Iterable[Told] = ()) -> None:
        self._told = list(told)
        self.bell = Bell()

    def tell(self, what: Told) -> None:
        """Adds what happened and wakes everybody who follows."""
        self._told.append(what)
        self.bell.ring()

    def since(self, count: int) -> list[Told]:
        """What was told after the first `count`."""
        return self._told[count:]

    @property
    def over(self) -> bool:
        """Whether nothing follows, on the log neither."""
        return bool(self._told) and isinstance(self._told[-1], Fin)


@dataclass(frozen=True, slots=True)
class Followed:
    """What a reader of an attempt needs."""

    key: JobKey
    chronicle: Chronicle
    journal: Path
