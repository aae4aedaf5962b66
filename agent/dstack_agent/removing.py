"""Removes runs: hides them when somebody says so, and lets go of what they left after a while.

What is said here is told to every agent; one that was away hears it when it is back, and asks the
same question as if it had been called: may whoever says so. A tag keeps what a run kept, so nothing
goes while one names it, and what others say of tags is waited for.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from dstack_agent.driven import DrivenRuns
from dstack_agent.executor.foreign import remove_tree
from dstack_agent.jobs.places import folder_of
from dstack_agent.listing import Listings
from dstack_agent.records import Records
from dstack_agent.removals import Removals
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.clock import Clock
from dstack_mesh.faults import MeshError, Missing, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.run_ids import is_of
from dstack_mesh.wire.caller import Caller, Member
from dstack_mesh.wire.rights import STOPPING_ANY, check_stop
from dstack_scheduler.removal import Removal

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How often it is looked what others say."""

REST_SECONDS = 600.0
"""How long a removed run rests before what it left goes: a tag may be on its way."""


@frozen
class Left:
    """Where runs leave something on this machine."""

    records: Records
    driven: DrivenRuns
    store: ChunkStore
    jobs: Path


class Removing:
    """Removes runs; `run` must run.

    Args:
        me: This agent's id.
        goes_on: Whether a run is driven here.
        heard: What other agents say, and whether one of them tells of a run.
    """

    def __init__(
        self,
        me: PeerId,
        listings: Listings,
        removals: Removals,
        left: Left,
        goes_on: Callable[[RunId], bool],
        clock: Clock,
        heard: "Heard | None" = None,
    ) -> None:
        self._me = me
        self._listings = listings
        self._removals = removals
        self._left = left
        self._goes_on = goes_on
        self._clock = clock
        self._heard = heard

    async def remove(self, run_id: RunId, who: Caller) -> None:
        """Writes down that a run is removed. Durable on return.

        Raises:
            Forbidden: It is somebody else's.
            Refused: It goes on here.
            Missing: Nobody told this agent of it.
        """
        check_stop(who, run_id)
        known = self._known(run_id)
        if not known and (self._heard is None or not self._heard.tells_of(run_id)):
            raise Missing("This agent knows no such run.", f"It was asked for {run_id}.",
                          "dstack ps -a", "no-such-run")  # fmt: skip
        by = who.peer_id if isinstance(who, Member) else self._me
        checked = known or not isinstance(who, Member) or who.role in STOPPING_ANY
        await self._removals.state(Removal(run_id, self._clock.now(), by, checked))

    async def run(self) -> None:
        """Hears of removals and lets go of what is over until cancelled."""
        while True:
            try:
                await self.look()
            except (MeshError, OSError, sqlite3.Error) as error:  # a full disk; tried again
                log.warning("what was removed stays for now: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Takes over what others say of our runs, and lets go of what has rested."""
        for removal in self._heard.removals() if self._heard is not None else ():
            await self._take(removal)
        left = await self._left_of(self._removals.hidden())
        rested = self._clock.now() - timedelta(seconds=REST_SECONDS)
        for removal in self._removals.all() if left else ():
            if removal.run_id in left and removal.at < rested:
                await self._let_go(removal.run_id)

    async def _left_of(self, runs: frozenset[RunId]) -> frozenset[RunId]:
        """Those of the runs of which something is here."""
        if not runs:  # as in most homes
            return runs
        driven = {run_id for run_id in runs if self._left.driven.knows(run_id)}
        kept = runs & await asyncio.to_thread(self._left.store.shelf.owners)
        return frozenset({*self._left.records.among(list(runs)), *driven, *kept})

    async def _take(self, removal: Removal) -> None:
        """Does what another agent was told, if whoever said it may."""
        mine = bool(self._left.records.among([removal.run_id])) or (
            self._left.driven.knows(removal.run_id)
        )
        if not mine or removal.run_id in self._removals.checked():
            return
        if not (removal.checked or is_of(removal.run_id, removal.by)):
            return
        try:
            self._known(removal.run_id)
        except Refused:  # it goes on here: whoever removed it did not know
            return
        await self._removals.state(
            Removal(removal.run_id, self._clock.now(), removal.by, checked=True)
        )

    def _known(self, run_id: RunId) -> bool:
        """Whether the run is known here first-hand. Raises Refused while it goes on."""
        run = self._listings.run(run_id)
        if run is None:
            return False
        if self._goes_on(run_id) or not all(job.state.state.ended for job in run.jobs):
            raise Refused(
                f"{run.run_name} goes on.",
                "Only a run that ended is removed.",
                f"dstack stop {run.run_name}",
                "run-goes-on",
            )
        return True

    async def _let_go(self, run_id: RunId) -> None:
        """Removes what a run left here. What its trees took the next collection frees."""
        left = self._left
        keys = [job.key for job in left.records.of_run(run_id)]
        await left.records.forget(run_id)
        await left.driven.forget(run_id)
        await asyncio.to_thread(left.store.let_go, run_id)
        for folder in (folder_of(left.jobs, key) for key in keys):
            if trouble := await asyncio.to_thread(remove_tree, folder):
                log.warning("%s was not removed: %s", folder, trouble)
        if keys:
            log.info("run %s was removed: what it left here is gone", run_id)


@frozen
class Heard:
    """What other agents say of removals.

    Attributes:
        removals: What each of them says.
        tells_of: Whether one of them tells of a run.
    """

    removals: Callable[[], Iterable[Removal]]
    tells_of: Callable[[RunId], bool]
