"""Folders that stay between runs of one workflow: what each was when a job was done last.

A cache belongs to whoever submitted the job, as the connection proved it, in a repository and for a
workflow: nobody's job is given what another one's wrote. It is a convenience: it may be gone at any
time, and what goes wrong with it fails no job.
"""

import logging
import sqlite3
from datetime import datetime

from dstack_agent.database import Database
from dstack_mesh.chunks.tree import Saved
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.job import JobSpec

log = logging.getLogger(__name__)

MOST_BYTES = 20 << 30
"""All caches together; those that were used longest ago go first."""

MOST_OF_ONE_BYTES = 10 << 30
"""A larger one is not kept."""

MOST_CACHES = 10_000

KEEP_DAYS = 30
"""After so long without a run they go."""


@frozen
class Owner:
    """Whose caches.

    Attributes:
        peer: Who submitted; empty for the owner of this home.
        workflow: Or the provider, where one is run directly.
    """

    peer: PeerId
    repo: str
    workflow: str


def owner_of(spec: JobSpec, peer: PeerId) -> Owner:
    """Whose caches a job has."""
    return Owner(peer, spec.revision.repo, spec.workflow or spec.provider)


class Caches:
    """The caches of this agent's jobs. Reads answer at once; writes are awaited."""

    def __init__(self, database: Database, most_bytes: int = MOST_BYTES) -> None:
        self._database = database
        self._most_bytes = most_bytes

    def find(self, owner: Owner, path: str) -> Digest | None:
        """The tree of a folder as it was last."""
        rows = self._database.read(
            "SELECT digest FROM cache WHERE peer = ? AND repo = ? AND workflow = ? AND path = ?",
            (*_values(owner), path),
        )
        return Digest(_blob(rows[0][0])) if rows else None

    async def keep(self, owner: Owner, path: str, saved: Saved, at: datetime) -> None:
        """Writes down what a folder is now; what there is no more room for goes."""
        row = (*_values(owner), path, saved.digest, saved.size_bytes, at.timestamp())
        oldest = at.timestamp() - KEEP_DAYS * 86_400

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("DELETE FROM cache WHERE at < ?", (oldest,))
            connection.execute(
                "DELETE FROM cache WHERE (peer, repo, workflow, path) IN ("
                " SELECT peer, repo, workflow, path FROM ("
                "  SELECT peer, repo, workflow, path,"
                "   sum(size_bytes) OVER newest AS size, row_number() OVER newest AS number"
                "  FROM cache WINDOW newest AS (ORDER BY at DESC, peer, repo, workflow, path"
                "   ROWS UNBOUNDED PRECEDING)"
                " ) WHERE size > ? OR number > ?)",
                (self._most_bytes, MOST_CACHES),
            )

        await self._database.write(change)

    async def forget(self, peer: PeerId, repo: str, workflow: str) -> int:
        """Lets go of whatever one peer has of a workflow; how many caches that were."""
        row = _values(Owner(peer, repo, workflow))
        removed = await self._database.write(
            lambda db: db.execute(
                "DELETE FROM cache WHERE peer = ? AND repo = ? AND workflow = ?", row
            )
        )
        return removed.rowcount

    def digests(self) -> set[Digest]:
        """The trees that must stay."""
        return {Digest(_blob(row[0])) for row in self._database.read("SELECT digest FROM cache")}


def _values(owner: Owner) -> tuple[str, str, str]:
    return owner.peer, owner.repo, owner.workflow


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
