"""Which jobs are the person's own, and so have no walls."""

from pathlib import Path

import pytest

from dstack_agent.assembly.workshop import came_from_here
from dstack_agent.database import Database
from dstack_agent.records import Given, Records
from dstack_mesh.ids import Digest, PeerId
from support.machines import question, spec


@pytest.mark.parametrize(("peer", "own"), [("", True), ("a" * 32, False)])
async def test_a_job_is_the_person_s_own_if_no_peer_gave_it(
    tmp_path: Path, peer: str, own: bool
) -> None:
    """Told by what was written down with the job: the ledger is not asked in the loop."""
    database = Database(tmp_path / "agent.db")
    records, job = Records(database), spec(question(), code=Digest(b"c" * 32))
    await records.accept(job, (), Given(PeerId(peer), 1))
    assert came_from_here(records.find(job.key)) is own
    database.close()


async def test_of_whom_nobody_wrote_who_gave_it_is_not(tmp_path: Path) -> None:
    database = Database(tmp_path / "agent.db")
    records, job = Records(database), spec(question(), code=Digest(b"c" * 32))
    await records.accept(job, ())
    await database.write(lambda db: db.execute("UPDATE job SET given_by = NULL"))
    assert not came_from_here(records.find(job.key))
    database.close()
