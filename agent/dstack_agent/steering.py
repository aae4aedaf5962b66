"""Stops runs, whether they run here, are driven here, or both."""

import asyncio

from dstack_agent.bids import check_takes
from dstack_agent.driving import Driving
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.ledger import Ledger
from dstack_agent.records import Records
from dstack_mesh.faults import Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import RunRecord


@frozen
class Steering:
    """Ends runs on behalf of people."""

    supervisor: Supervisor
    driving: Driving
    records: Records
    ledger: Ledger

    async def stop(self, run_id: RunId, job: int | None, abort: bool, cause: str) -> int:
        """Writes down that a run, or one job of it, shall end; how many jobs that concerns.

        A driven run is stopped as a whole only: a single job is stopped where it runs. Stopping
        what has ended concerns nothing and is fine.

        Raises:
            Missing: This agent never heard of the run.
        """
        drives = job is None and await self.driving.stop(run_id, abort, cause)
        jobs = await self.supervisor.stop(run_id, job, abort, cause)
        if not jobs and not drives and not self._knows(run_id):
            raise Missing(
                "This agent knows no such run.",
                f"It was asked to stop {run_id}.",
                "dstack ps -a",
                "no-such-run",
            )
        return max(jobs, int(drives))

    async def end_jobs_of(self, peers: frozenset[PeerId]) -> None:
        """Stops the jobs that these peers gave us, and the runs that they handed over."""
        cause = "whoever gave it to this agent was revoked"
        for run_id in self.driving.given_by(peers):
            await self.driving.stop(run_id, False, cause)
        for lease in await asyncio.to_thread(self.ledger.leases):
            if lease.givers & peers:
                await self.supervisor.stop(lease.key.run_id, lease.key.job, False, cause)

    async def drive(
        self, record: RunRecord, jobs: tuple[DrivenJob, ...], epoch: int, behalf: Asker
    ) -> None:
        """Has a run driven here, as `Driving.drive` does. Raises Forbidden if it is another's."""
        check_takes(behalf, record.run_id)
        await self.driving.drive(record, jobs, epoch, behalf)

    async def givers(self, run_id: RunId) -> frozenset[PeerId]:
        """The peers that gave a run to this agent; empty where nothing of it goes on here."""
        leases = await asyncio.to_thread(self.ledger.leases)
        gave = (lease.givers for lease in leases if lease.key.run_id == run_id)
        driven = self.driving.giver(run_id)
        return frozenset[PeerId]().union(*gave, () if driven is None else (driven,))

    def _knows(self, run_id: RunId) -> bool:
        return bool(self.records.run_ids((run_id,))) or self.driving.runs.knows(run_id)
