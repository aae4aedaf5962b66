"""Runs that were taken out of all lists: who may say so, and what of them still counts. Pure.

What a removed run kept stays for as long as a tag names it; nothing else of it counts any more.
"""

from collections.abc import Iterable
from datetime import datetime

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.run_ids import is_of
from dstack_scheduler.job import RunRecord


@frozen
class Removal:
    """The statement that a run is removed.

    Attributes:
        by: The peer that said so, as its connection proved it to whoever wrote this down.
        checked: Whether that one knew the run first-hand, and saw that the peer may remove it;
            otherwise it counts for the peer's own runs.
    """

    run_id: RunId
    at: datetime
    by: PeerId
    checked: bool = False

    def covers(self, run: RunRecord) -> bool:
        """Whether it counts for the run: otherwise any submitter could hide runs of others."""
        return self.run_id == run.run_id and (self.checked or is_of(self.run_id, self.by))


def removed(runs: Iterable[RunRecord], removals: Iterable[Removal]) -> frozenset[RunId]:
    """The runs among these that are removed, by what anybody tells of each."""
    said: dict[RunId, list[Removal]] = {}
    for one in removals:
        said.setdefault(one.run_id, []).append(one)
    return frozenset(
        run.run_id for run in runs if any(one.covers(run) for one in said.get(run.run_id, ()))
    )
