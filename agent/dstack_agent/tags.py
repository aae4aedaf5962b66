"""Names of runs as this agent heard them: the newest statement about a name wins."""

import sqlite3

from dstack_agent.database import Database
from dstack_agent.touched import Touched
from dstack_agent.wire import stored
from dstack_mesh.faults import Busy
from dstack_mesh.ids import PeerId
from dstack_scheduler.job import TagRecord

MOST_OF_ONE = 1_000
"""Names that one peer may have kept here, those that it took back included. The owner of this home
may have any number."""


class Tags:
    """Statements about tags, one for each name in each repository. `touched` hears of new ones."""

    def __init__(self, database: Database, touched: Touched | None = None) -> None:
        self._database = database
        self._touched = touched or Touched()

    async def state(self, tag: TagRecord, by: PeerId | None = None) -> None:
        """Writes a statement down durably, unless a newer one about the same name is known.

        Args:
            tag: The statement.
            by: Who makes it; nobody or empty for the owner of this home.

        Raises:
            Busy: That peer has enough names here.
        """
        row = (tag.repo, tag.tag, tag.at.isoformat(), tag.run_id or "", stored.pack_tag(tag))

        row = (*row, by or "")

        def change(connection: sqlite3.Connection) -> None:
            if by and not _is_known(connection, tag):
                _make_room(connection, by)
            connection.execute(
                "INSERT INTO tag (repo, tag, at, run_id, statement, given_by)"
                " VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (repo, tag) DO UPDATE SET at = excluded.at, run_id = excluded.run_id,"
                " statement = excluded.statement, given_by = excluded.given_by"
                " WHERE (excluded.at, excluded.run_id) > (tag.at, tag.run_id)",
                row,
            )

        await self._database.write(change, durable=True)
        self._touched.tags()

    def all(self) -> tuple[TagRecord, ...]:
        """The statements in effect, those that took a name back too: others may not know it."""
        rows = self._database.read("SELECT statement FROM tag ORDER BY repo, tag")
        return tuple(stored.unpack_tag(bytes(row[0])) for row in rows if isinstance(row[0], bytes))


def _is_known(connection: sqlite3.Connection, tag: TagRecord) -> bool:
    found = connection.execute(
        "SELECT 1 FROM tag WHERE repo = ? AND tag = ?", (tag.repo, tag.tag)
    ).fetchone()
    return found is not None


def _make_room(connection: sqlite3.Connection, by: PeerId) -> None:
    """Forgets the oldest name that a peer took back, if it has as many as it may. Raises Busy."""
    (count,) = connection.execute("SELECT count(*) FROM tag WHERE given_by = ?", (by,)).fetchone()
    if count < MOST_OF_ONE:
        return
    forgotten = connection.execute(
        "DELETE FROM tag WHERE (repo, tag) IN (SELECT repo, tag FROM tag"
        " WHERE given_by = ? AND run_id = '' ORDER BY at LIMIT 1)",
        (by,),
    )
    if not forgotten.rowcount:
        raise Busy(
            "This peer has given enough names to runs.",
            f"The agent keeps {MOST_OF_ONE:,} of one peer.",
            "dstack untag NAME   (one that is not needed; see: dstack tags)",
            "tags-enough",
        )
