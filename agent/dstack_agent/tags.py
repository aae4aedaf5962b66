"""Names of runs as this agent heard them: the newest statement about a name wins."""

import sqlite3

from dstack_agent.database import Database
from dstack_agent.touched import Touched
from dstack_agent.wire import stored
from dstack_scheduler.job import TagRecord


class Tags:
    """Statements about tags, one for each name in each repository. `touched` hears of new ones."""

    def __init__(self, database: Database, touched: Touched | None = None) -> None:
        self._database = database
        self._touched = touched or Touched()

    async def state(self, tag: TagRecord) -> None:
        """Writes a statement down durably, unless a newer one about the same name is known."""
        row = (tag.repo, tag.tag, tag.at.isoformat(), tag.run_id or "", stored.pack_tag(tag))

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO tag (repo, tag, at, run_id, statement) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (repo, tag) DO UPDATE SET at = excluded.at,"
                " run_id = excluded.run_id, statement = excluded.statement"
                " WHERE (excluded.at, excluded.run_id) > (tag.at, tag.run_id)",
                row,
            )

        await self._database.write(change, durable=True)
        self._touched.tags()

    def all(self) -> tuple[TagRecord, ...]:
        """The statements in effect, those that took a name back too: others may not know it."""
        rows = self._database.read("SELECT statement FROM tag ORDER BY repo, tag")
        return tuple(stored.unpack_tag(bytes(row[0])) for row in rows if isinstance(row[0], bytes))
