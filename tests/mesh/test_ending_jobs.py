"""The jobs of whoever is revoked end, also where that does not succeed at once."""

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.members import Members
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Busy
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.statement import Admit, Revoke
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.roster import record_founder
from support.eventually import eventually_async
from support.meshes import Mesh, member
from support.saying import say


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: Busy("The ledger is in use by another process."),
        lambda: sqlite3.OperationalError("database or disk is full"),
        lambda: OSError(24, "Too many open files"),
    ],
)
async def test_it_is_tried_again_and_takes_nobody_down(
    tmp_path: Path, trouble: Callable[[], Exception]
) -> None:
    mesh = Mesh.make(tmp_path / "root")
    record_founder(mesh.root, mesh.membership, "root", datetime.now(UTC))
    home, gone = mesh.admit(tmp_path / "a"), member(mesh.admit(tmp_path / "b")).peer_id
    tries: list[frozenset[PeerId]] = []

    async def end_jobs(peers: frozenset[PeerId]) -> None:
        tries.append(peers)
        if len(tries) == 1:
            raise trouble()

    members = Members(home, member(home))
    assert members.keeper is not None
    said = say(mesh, Admit(gone, Role.RUNNER, "b", "test"), Revoke(gone, stop=True))
    await members.keeper.absorb([one.signed for one in said.statements.values()])
    channels = Channels(home, members.picture)
    running = asyncio.create_task(members.run(channels, lambda: (), SystemClock(), end_jobs, 0.05))

    async def twice() -> bool:
        return len(tries) > 1

    await eventually_async(twice, 10)
    assert tries == [{gone}] * 2
    running.cancel()
    await channels.close()
