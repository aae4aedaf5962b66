"""Signs the jobs that this home submits, once nobody waits for their first line any more.

Loading the library that signs takes longer than handing a job over. So the signature follows the
award: it is made in a thread when the job wrote something or ended, or a moment after it was
awarded, and before the command leaves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId
from dstack_mesh.signing import Signed
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.job import Fin, JobKey, JobSpec, LogFrame
from dstack_scheduler.progress import Awarded, Grown, Progress
from dstack_scheduler.submission import HandOver, Submission

QUIET_SECONDS = 2.0
"""A job that has written nothing for so long does not miss the processor."""

FINISH_SECONDS = 3.0
"""How long a command that is done still waits for agents to take signatures."""

Find = Callable[[PeerId], Awaitable[Agent | None]]


class Vouching:
    """Signs a run and brings each agent what it got. For one event loop."""

    def __init__(self, home: Home, submission: Submission, find: Find) -> None:
        self._home = home
        self._specs = [job.spec for job in submission.jobs]
        self._find = find
        self._may = asyncio.Event()
        self._signed: asyncio.Task[list[Signed]] | None = None
        self._bringing: set[asyncio.Task[None]] = set()

    def saw(self, event: Progress) -> None:
        """Notes who got which job, and when there is time to sign."""
        match event:
            case Awarded(job, attempt, card):
                key = JobKey(self._specs[job].key.run_id, job, attempt)
                self._bringing.add(asyncio.create_task(self._bring(key, card.peer_id)))
            case Grown(_, jobs):
                self._specs = [one.spec for one in jobs]
                self._signed = None
            case LogFrame() | Fin():
                self._may.set()
            case _:
                pass

    async def signed_by_us(self, handed: HandOver) -> HandOver:
        """A run that is handed over, with our signature of each job."""
        if len(handed.jobs) != len(self._specs):  # it is growing at this moment
            self._specs, self._signed = [job.spec for job in handed.jobs], None
        signed = await self._sign()
        jobs = zip(handed.jobs, signed, strict=True)
        return replace(handed, jobs=tuple(replace(job, signed=one) for job, one in jobs))

    async def finish(self) -> None:
        """Waits a moment for what is on its way."""
        self._may.set()
        if self._bringing:
            await asyncio.wait(self._bringing, timeout=FINISH_SECONDS)
        for task in self._bringing:
            task.cancel()

    async def _bring(self, key: JobKey, peer_id: PeerId) -> None:
        from dstack_scheduler.vouching import bring

        try:
            async with asyncio.timeout(QUIET_SECONDS):
                await self._may.wait()
        except TimeoutError:
            pass
        signed = (await self._sign())[key.job]
        await bring(signed, key, partial(self._find, peer_id))

    async def _sign(self) -> list[Signed]:
        if self._signed is None:
            work = asyncio.to_thread(signatures, self._home, self._specs)
            self._signed = asyncio.create_task(work)
        return await asyncio.shield(self._signed)


def signatures(home: Home, specs: Sequence[JobSpec]) -> list[Signed]:
    """This home's signature of each job. Blocks, and loads the library that signs."""
    from dstack_mesh.identity import Identity
    from dstack_mesh.signing import Signer
    from dstack_scheduler.evidence import SPECIFICATION, specification_of
    from dstack_scheduler.wire.evidence import specification_bytes

    signer = Signer.of(Identity.load_or_make(home))
    bodies = [specification_bytes(specification_of(spec)) for spec in specs]
    return [signer.sign(SPECIFICATION, body) for body in bodies]
