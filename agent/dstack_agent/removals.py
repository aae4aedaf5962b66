"""Runs that are removed, as this agent was told: hidden at once, though bytes may still be here."""

import sqlite3
from collections.abc import Callable, Iterable

from dstack_agent.database import Database
from dstack_agent.tags import Tags
from dstack_agent.touched import Touched
from dstack_agent.wire import stored
from dstack_mesh.ids import RunId
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import TagRecord
from dstack_scheduler.removal import Removal
from dstack_scheduler.resolve import merged_tags

MOST = 10_000
"""Statements that are kept; of older runs nothing is left anywhere by then."""


def _nobodys() -> Iterable[TagRecord]:
    return ()


class Removals:
    """Statements about runs, one for each. `touched` hears of new ones.

    Attributes:
        heard_tags: What other agents say of tags; set where there are others.
    """

    def __init__(self, database: Database, tags: Tags, touched: Touched | None = None) -> None:
        self._database = database
        self._tags = tags
        self._touched = touched or Touched()
        self.heard_tags: Callable[[], Iterable[TagRecord]] = _nobodys

    async def state(self, removal: Removal) -> None:
        """Writes a statement down durably; what was checked stays."""
        checked = int(removal.checked)
        row = (removal.run_id, removal.at.isoformat(), checked, stored.pack_removal(removal))

        def change(connection: sqlite3.Connection) -> bool:
            written = connection.execute(
                "INSERT INTO removal (run_id, at, checked, statement) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (run_id) DO UPDATE SET at = excluded.at, checked = excluded.checked,"
                " statement = excluded.statement WHERE excluded.checked > removal.checked",
                row,
            )
            connection.execute(
                "DELETE FROM removal WHERE run_id IN"
                " (SELECT run_id FROM removal ORDER BY at DESC LIMIT -1 OFFSET ?)",
                (MOST,),
            )
            return written.rowcount == 1

        if await self._database.write(change, durable=True):
            self._touched.run(removal.run_id)
            self._touched.tags()

    def all(self, most: int = MOST) -> tuple[Removal, ...]:
        """The newest statements, newest first."""
        rows = self._database.read(
            "SELECT statement FROM removal ORDER BY at DESC, run_id LIMIT ?", (most,)
        )
        return tuple(
            stored.unpack_removal(bytes(row[0])) for row in rows if isinstance(row[0], bytes)
        )

    def checked(self) -> frozenset[RunId]:
        """Runs of ours that are removed."""
        rows = self._database.read("SELECT run_id FROM removal WHERE checked")
        return frozenset(RunId(str(row[0])) for row in rows)

    def hidden(self) -> frozenset[RunId]:
        """Runs of ours of which nothing is told any more: removed, and no tag names them."""
        removed = self.checked()
        if not removed:  # as in most homes
            return removed
        return removed - self.tagged()

    def tagged(self) -> frozenset[RunId]:
        """Runs that a tag names, by what is said here or elsewhere."""
        tags = merged_tags([Listing((), (*self._tags.all(), *self.heard_tags()))])
        return frozenset(tag.run_id for tag in tags.values() if tag.run_id is not None)
