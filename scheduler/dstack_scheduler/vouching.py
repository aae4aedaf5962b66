"""Brings a submitter's signature to the agent that got the job."""

import asyncio
from collections.abc import Awaitable, Callable

from dstack_mesh.faults import MeshError, TooLate, Unreachable
from dstack_mesh.signing import Signed
from dstack_scheduler.agent_port import Agent
from dstack_scheduler.job import JobKey

PAUSES_SECONDS = (0.0, 0.2, 1.0, 5.0, 15.0)
"""Between tries. Afterwards the run is shown as not signed; it goes on all the same."""


async def bring(signed: Signed, key: JobKey, find: Callable[[], Awaitable[Agent | None]]) -> None:
    """Brings it. An agent that is older keeps none, and one that refuses it stays with that."""
    for pause in PAUSES_SECONDS:
        await asyncio.sleep(pause)
        try:
            if (agent := await find()) is not None:
                await agent.vouch(key.run_id, key.job, signed)
                return
        except (Unreachable, TooLate):
            continue
        except MeshError:
            return
