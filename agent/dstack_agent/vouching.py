"""Takes submitters' signatures of jobs that are here, each from whoever gave the job."""

import asyncio

from dstack_agent.records import Records
from dstack_mesh.faults import Conflict, Forbidden
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.signing import Signed, check
from dstack_mesh.trust.roster.picture import RUNNING
from dstack_scheduler.asker import Asker
from dstack_scheduler.evidence import SPECIFICATION, specification_of
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire.evidence import read_specification

NEWEST = 0


@frozen
class Vouching:
    """Keeps a signature that fits. `peer_id` is ours: the owner's commands sign with our key."""

    records: Records
    peer_id: PeerId

    async def vouch(self, run_id: RunId, job: int, signed: Signed, by: Asker) -> None:
        """Keeps it; durable on return. The same again changes nothing.

        Raises:
            Missing: There is no such job.
            Forbidden: Somebody else gave the job, or signed.
            Damaged: Nobody signed it.
            Conflict: It is of another specification.
        """
        accepted = self.records.find(JobKey(run_id, job, NEWEST))
        if accepted.given is None or accepted.given.peer != by.peer_id:
            raise Forbidden(
                "This job was given by somebody else.",
                "Only whoever gave a job brings its submitter's signature.",
                code="not-your-run",
            )
        signer = await asyncio.to_thread(check, SPECIFICATION, signed)
        self._check_signer(signer, by)
        if read_specification(signed.body) != specification_of(accepted.spec):
            raise Conflict(
                "What was signed is not the job that is here.",
                f"It was asked for job {job} of run {run_id}.",
                code="another-specification",
            )
        if accepted.vouched is None:
            await self.records.vouch(run_id, job, signed)

    def _check_signer(self, signer: PeerId, by: Asker) -> None:
        """A member that drives runs of others passes on what they signed; nobody else does."""
        drives = not by.is_owner and by.role in {role.value for role in RUNNING}
        if signer != (by.peer_id or self.peer_id) and not drives:
            raise Forbidden(
                "The job was signed by somebody else than who gave it.",
                f"It claims to be signed by {signer}.",
                code="forged-submitter",
            )
