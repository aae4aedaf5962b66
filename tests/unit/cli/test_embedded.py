"""When a private agent is started for a command that only looks."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from dstack_agent.database import Database
from dstack_agent.records import Records
from dstack_cli.embedded import ran_before
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest, RunId, RunName
from dstack_scheduler.job import JobKey, JobSpec
from dstack_scheduler.needs import Needs

SPEC = JobSpec(
    JobKey(RunId("0" * 26), 0),
    *(RunName("calm-ibex-1"), "train", "bash", ("true",), Needs(), Digest(b"c" * 32)),
    datetime(2026, 11, 20, tzinfo=UTC),
)


def test_a_home_ran_jobs_also_if_their_folders_are_gone_since(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not ran_before(home)
    home.jobs.mkdir(parents=True)
    database = Database(home.state / "agent.db")
    assert not ran_before(home)
    asyncio.run(Records(database).accept(SPEC, ()))
    assert ran_before(home)
    database.close()
    (home.state / "agent.db").write_bytes(b"no database at all")
    assert ran_before(home)
    (home.state / "agent.db").unlink()
    (home.jobs / "a-job").mkdir()
    assert ran_before(home)
