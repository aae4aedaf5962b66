"""Everything an attempt has to tell, in order, and a bell for those who follow it."""

from collections.abc import Iterable
from pathlib import Path

from dstack_agent.bell import Bell
from dstack_mesh.frozen import frozen
from dstack_scheduler.job import ArtifactSaved, Fin, JobKey, JobState, StateChange

Told = StateChange | ArtifactSaved | Fin


class Chronicle:
    """States and artifacts of an attempt from its beginning, and its last word.

    What a later event makes void is dropped, so that a job that runs for weeks has a short story: a
    partial version of an artifact goes when the next one comes, and so does a word about preparing.
    `bell` rings when something was told and when the job wrote to its log.
    """

    def __init__(self, told: Iterable[Told] = ()) -> None:
        self._told = list(enumerate(told, start=1))
        self._count = len(self._told)
        self.bell = Bell()

    def tell(self, what: Told) -> None:
        """Adds what happened and wakes everybody who follows."""
        self._told = [each for each in self._told if not _voids(what, each[1])]
        self._count += 1
        self._told.append((self._count, what))
        self.bell.ring()

    def since(self, number: int) -> list[tuple[int, Told]]:
        """What was told after the event of this number, with its numbers, which count from 1."""
        return [each for each in self._told if each[0] > number]

    def states(self) -> list[StateChange]:
        """The states so far."""
        return [told for _, told in self._told if isinstance(told, StateChange)]

    @property
    def last_word(self) -> Fin | None:
        """How it ended; None while it goes on."""
        last = self._told[-1][1] if self._told else None
        return last if isinstance(last, Fin) else None


def _voids(later: Told, earlier: Told) -> bool:
    match later, earlier:
        case ArtifactSaved(path=path), ArtifactSaved(path=same, complete=False):
            return path == same
        case StateChange(), StateChange(state=JobState.PREPARING, cause=cause):
            return bool(cause)
        case _:
            return False


@frozen
class Followed:
    """What a reader of an attempt needs."""

    key: JobKey
    chronicle: Chronicle
    journal: Path
