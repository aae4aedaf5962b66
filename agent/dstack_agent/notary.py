"""Signs what happens to the jobs of this agent: a chain of events for each attempt.

What is to be signed stands in the database, so nothing waits for a signature and a restart loses
none: an event is what is written down and not signed yet. Signing waits a moment, for what comes
together is signed together and a job that has just begun needs the processor itself.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence

from dstack_agent.records import Accepted, Given, Records
from dstack_agent.touched import Touched
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import RunId
from dstack_mesh.signing import Signed, Signer
from dstack_scheduler.evidence import EVENT, Event, Evidence, Said, Vouched, link, taken
from dstack_scheduler.job import JobKey
from dstack_scheduler.wire.evidence import event_bytes, read_event

log = logging.getLogger(__name__)

GATHER_SECONDS = 1.0
"""What happens within this time is signed together."""

AGAIN_SECONDS = 10.0
"""Before it is tried again where the disk is full."""


class Notary:
    """Keeps the chains of this agent's attempts up to date; `run` must run.

    Args:
        signer: Reads the key of this home; blocks.
        unsigned: Which runs changed.
    """

    def __init__(
        self,
        records: Records,
        unsigned: Touched,
        signer: Callable[[], Signer],
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self._records = records
        self._unsigned = unsigned
        self._make = signer
        self._signer: Signer | None = None
        self._gather_seconds = gather_seconds
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Signs until cancelled; first what nobody signed when the agent died."""
        for run_id in self._records.unsigned():
            self._unsigned.run(run_id)
        while True:
            await self._unsigned.wait()
            await asyncio.sleep(self._gather_seconds)
            runs, _ = self._unsigned.take()
            for run_id in sorted(runs):
                await self._tried(run_id)

    async def evidence(self, run_id: RunId) -> list[Evidence]:
        """What is signed of a run, up to this moment, or as far as it can be signed."""
        try:
            await self.sign(run_id)
        except (MeshError, sqlite3.Error, OSError) as error:
            log.warning("what happened in run %s is not all signed: %s", run_id, error)
        return [
            Evidence(one.key, events, one.vouched)
            for one in self._records.of_run(run_id)
            if (events := self._records.events(one.key))
        ]

    async def sign(self, run_id: RunId) -> None:
        """Signs what happened in a run and is not signed yet."""
        async with self._turn:
            for accepted in self._records.of_run(run_id):
                if accepted.given is not None:
                    await self._sign(accepted, accepted.given)

    async def _tried(self, run_id: RunId) -> None:
        try:
            await self.sign(run_id)
        except (MeshError, sqlite3.Error, OSError) as error:
            log.warning("what happened in run %s is signed later: %s", run_id, error)
            self._unsigned.run(run_id)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _sign(self, accepted: Accepted, given: Given) -> None:
        key = accepted.key
        signed = self._records.events(key)
        said = [read_event(each.body).said for each in signed]
        fresh = [each for each in self._happened(accepted, given) if each not in said]
        if fresh:
            events = await asyncio.to_thread(self._signed, key, given.epoch, signed, fresh)
            await self._records.sign(key, len(signed), events, accepted.fin is not None)

    def _happened(self, accepted: Accepted, given: Given) -> list[Said]:
        key, fin = accepted.key, accepted.fin
        said: list[Said] = [taken(accepted.spec, given.peer, accepted.gpu_uuids)]
        states = self._records.history(key)
        said += states if fin is None else [each for each in states if each != fin.state]
        said += [each for each in self._records.artifacts(key) if each.complete]
        if fin is not None:
            said += [fin.state, fin]
        if accepted.vouched is not None:
            said.append(Vouched(accepted.vouched.signer))
        return said

    def _signed(
        self, key: JobKey, epoch: int, before: Sequence[Signed], said: Sequence[Said]
    ) -> list[Signed]:
        signer = self._signer = self._signer or self._make()
        previous = link(before[-1].body) if before else b""
        events: list[Signed] = []
        for seq, each in enumerate(said, start=len(before) + 1):
            body = event_bytes(Event(key, epoch, seq, previous, each))
            events.append(signer.sign(EVENT, body))
            previous = link(body)
        return events
