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

MOST_RIVALS = 100
"""Claims of names that lost; further ones are not shown."""


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
            held = _held(connection, tag)
            if by and held is None:
                _make_room(connection, by)
            connection.execute(
                "INSERT INTO tag (repo, tag, at, run_id, statement, given_by)"
                " VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (repo, tag) DO UPDATE SET at = excluded.at, run_id = excluded.run_id,"
                " statement = excluded.statement, given_by = excluded.given_by"
                " WHERE (excluded.at, excluded.run_id) > (tag.at, tag.run_id)",
                row,
            )
            if held is not None:
                _note_rivals(connection, held, tag)

        await self._database.write(change, durable=True)
        self._touched.tags()

    def all(self) -> tuple[TagRecord, ...]:
        """The statements in effect, those that took a name back too: others may not know it.

        Beside them claims that lost against one that did not know of them.
        """
        rows = self._database.read(
            "SELECT statement FROM tag UNION ALL SELECT statement FROM rival_tag"
        )
        return tuple(stored.unpack_tag(bytes(row[0])) for row in rows if isinstance(row[0], bytes))


def _held(connection: sqlite3.Connection, tag: TagRecord) -> TagRecord | None:
    """The statement about the same name that is known."""
    found = connection.execute(
        "SELECT statement FROM tag WHERE repo = ? AND tag = ?", (tag.repo, tag.tag)
    ).fetchone()
    return stored.unpack_tag(bytes(found[0])) if found is not None else None


def _note_rivals(connection: sqlite3.Connection, held: TagRecord, tag: TagRecord) -> None:
    """Keeps the claim that loses, if the one that wins did not know of it."""
    loser, winner = sorted((held, tag), key=lambda one: (one.at, one.run_id or ""))
    over = winner.at if winner.run_id is None else winner.over
    connection.execute(
        "DELETE FROM rival_tag WHERE repo = ? AND tag = ? AND (at <= ? OR run_id = ?)",
        (tag.repo, tag.tag, over.isoformat() if over is not None else "", winner.run_id or ""),
    )
    if winner.is_beside(loser):
        connection.execute(
            "INSERT OR REPLACE INTO rival_tag SELECT ?, ?, ?, ?, ?"
            " WHERE (SELECT count(*) FROM rival_tag) < ?",
            (
                *(loser.repo, loser.tag, loser.run_id, loser.at.isoformat()),
                *(stored.pack_tag(loser), MOST_RIVALS),
            ),
        )


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
