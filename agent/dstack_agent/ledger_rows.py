"""Rows of the ledger's tables, to and from what they mean."""

import json
import sqlite3

from dstack_agent.lease import Award, Lease
from dstack_mesh.ids import Digest, HoldId, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.fit import Taken
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs

REMEMBERED = 100_000
"""Ended leases and epochs that are kept to answer repeated calls."""

KEY = "run_id = ? AND job = ? AND attempt = ?"


def key_values(key: JobKey) -> tuple[str, int, int]:
    return (key.run_id, key.job, key.attempt)


def insert(db: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    columns, values = ", ".join(row), ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})", tuple(row.values()))


def drop_holds(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> None:
    holds = f"SELECT hold_id FROM holds WHERE {where}"
    db.execute(f"DELETE FROM cards WHERE hold_id IN ({holds})", values)
    db.execute(f"DELETE FROM holds WHERE {where}", values)


def forget_oldest(db: sqlite3.Connection) -> None:
    old = "id <= (SELECT max(id) FROM {0}) - ?"
    db.execute(f"DELETE FROM leases WHERE ended = 1 AND {old.format('leases')}", (REMEMBERED,))
    db.execute(
        f"DELETE FROM epochs WHERE {old.format('epochs')} AND run_id NOT IN"
        " (SELECT run_id FROM leases WHERE ended = 0 UNION SELECT run_id FROM holds)",
        (REMEMBERED,),
    )


def cards_of(db: sqlite3.Connection, hold_id: str) -> tuple[str, ...]:
    rows = db.execute("SELECT uuid FROM cards WHERE hold_id = ? ORDER BY place", (hold_id,))
    return tuple(row["uuid"] for row in rows)


def needs_of(row: sqlite3.Row) -> Needs:
    return Needs(**json.loads(row["needs"]))


def read_taken(db: sqlite3.Connection) -> tuple[Taken, ...]:
    columns = "SELECT hold_id, run_id, job, attempt, run_name, owner, needs"
    rows = db.execute(
        f"{columns}, 1 AS running FROM leases WHERE ended = 0"
        f" UNION ALL {columns}, 0 AS running FROM holds ORDER BY run_id, job, attempt"
    ).fetchall()
    return tuple(
        Taken(
            key=JobKey(RunId(row["run_id"]), row["job"], row["attempt"]),
            holder=f"{row['run_name']} ({row['owner']})" if row["owner"] else row["run_name"],
            needs=needs_of(row),
            gpu_uuids=cards_of(db, row["hold_id"]),
            running=bool(row["running"]),
        )
        for row in rows
    )


def seat(db: sqlite3.Connection, hold_id: str, gpu_uuids: tuple[str, ...]) -> None:
    db.execute("DELETE FROM cards WHERE hold_id = ?", (hold_id,))
    db.executemany(
        "INSERT INTO cards (uuid, hold_id, place) VALUES (?, ?, ?)",
        [(card, hold_id, place) for place, card in enumerate(gpu_uuids)],
    )


def find_lease(db: sqlite3.Connection, key: JobKey) -> Lease | None:
    row = db.execute(f"SELECT * FROM leases WHERE {KEY}", key_values(key)).fetchone()
    return None if row is None else read_lease(db, row)


def read_lease(db: sqlite3.Connection, row: sqlite3.Row) -> Lease:
    return Lease(
        key=JobKey(RunId(row["run_id"]), row["job"], row["attempt"]),
        hold_id=HoldId(row["hold_id"]),
        run_name=RunName(row["run_name"]),
        owner=row["owner"],
        peer=PeerId(row["peer"]),
        behind=PeerId(row["behind"]),
        executor=ExecutorKind(row["executor"]),
        needs=needs_of(row),
        epoch=row["epoch"],
        spec_digest=Digest(row["spec_digest"]),
        gpu_uuids=cards_of(db, row["hold_id"]),
        ended=bool(row["ended"]),
    )


def lease_row(hold: sqlite3.Row, award: Award) -> dict[str, object]:
    copied = ("hold_id", "run_id", "job", "attempt", "run_name")
    copied += ("peer", "behind", "executor", "needs")
    return {
        **{column: hold[column] for column in copied},
        "owner": award.owner or hold["owner"],
        "epoch": award.epoch,
        "spec_digest": award.spec_digest,
    }
