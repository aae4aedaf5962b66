"""Decides what is worth a line of the audit log, and has it written."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from dstack_agent.audit.chain import Head
from dstack_agent.audit.entry import Entry, What
from dstack_agent.audit.log import AuditLog
from dstack_agent.audit.repeats import Repeats
from dstack_agent.audit.seen import NOTHING, Seen, changes, seen_from, seen_of
from dstack_agent.owner.standing import Standing
from dstack_mesh.clock import Clock
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Invalid, MeshError
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.trust.roster.picture import Picture
from dstack_mesh.wire.caller import Caller, Member, Owner, Stranger
from dstack_scheduler.asker import Asker
from dstack_scheduler.job import JobKey, TagRecord

log = logging.getLogger(__name__)

OFTEN = (What.REFUSED, What.GIVEN, What.OPENED, What.ENTERED)
"""What may happen without end, and is counted after the first lines."""

LOOK_SECONDS = 1.0
"""How late a change of the roster or the policy is written; and what a power loss may take."""


class Auditor:
    """Notes what happens. `run` must run. Use from one event loop.

    Args:
        entries: Where it goes; closed by whoever opened it.
        kept: The file that keeps what was seen before.
        clock: For windows of refused calls.
        picture: The roster as it is now.
        policy: The text of the policy in force.
        standing: Whether the owner lends the machine.
    """

    def __init__(
        self,
        entries: AuditLog,
        kept: Path,
        clock: Clock,
        picture: Callable[[], Picture],
        policy: Callable[[], str],
        standing: Callable[[], Standing],
    ) -> None:
        self._entries = entries
        self._kept = kept
        self._clock = clock
        self._picture = picture
        self._policy = policy
        self._standing = standing
        self._repeats = {what: Repeats(what) for what in OFTEN}
        self._seen = _kept_in(kept)
        self._unkept = False
        self._looked: tuple[str, str, Standing] | None = None

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.look()
            except OSError as error:  # a full disk; the agent and its jobs go on
                log.error("the audit log cannot be kept: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Writes what changed since the last look. Durable on return. Raises OSError."""
        for repeats in self._repeats.values():
            for entry in repeats.due(self._clock.elapsed()):
                self._entries.write(entry)
        picture, policy, standing = self._picture(), self._policy(), self._standing()
        looked = (picture.digest, policy, standing)
        if looked != self._looked:  # once a second: most looks end here
            await self._compare(seen_of(picture, policy, standing), picture)
            self._looked = looked
        if self._entries.unsafe:
            await asyncio.to_thread(self._entries.sync)

    async def _compare(self, seen: Seen, picture: Picture) -> None:
        """Writes what changed, then keeps what was seen: a death in between tells it twice."""
        entries = list(changes(self._seen, seen, picture))
        for entry in entries:
            self._entries.write(entry)
        self._seen, self._unkept = seen, self._unkept or bool(entries)
        if self._unkept:
            await asyncio.to_thread(write_durably, self._kept, seen.encoded())
            self._unkept = False

    def refused(self, who: Caller | None, method: str, error: MeshError) -> None:
        """A call was refused; None for a caller that could not be told."""
        word, name, role = self._told(who)
        self._often(Entry(What.REFUSED, word, method, name, role, error.code))

    def given(self, run_id: RunId, by: PeerId) -> None:
        """A job was taken; written if it is another peer's. Each attempt's own chain says more."""
        if by:
            one = self._picture().members.get(by)
            name, role = (one.name, one.role.value) if one is not None else ("", "")
            self._often(Entry(What.GIVEN, str(by), f"run {run_id}", name, role))

    def opened(self, who: Caller, key: JobKey) -> None:
        """Somebody gets at what a job listens on; written if it is another peer."""
        self._came(What.OPENED, who, key)

    def entered(self, who: Caller, key: JobKey) -> None:
        """Somebody runs a command beside a job; likewise. Its words are not written."""
        self._came(What.ENTERED, who, key)

    def _came(self, what: What, who: Caller, key: JobKey) -> None:
        if isinstance(who, Member):
            word, name, role = self._told(who)
            about = f"job {key.job}, attempt {key.attempt} of run {key.run_id}"
            self._often(Entry(what, word, about, name, role))

    def note(self, entry: Entry) -> None:
        """Writes what somebody else found worth a line."""
        self._entries.write(entry)

    @property
    def head(self) -> Head:
        """The last line."""
        return self._entries.head

    def _often(self, entry: Entry) -> None:
        for line in self._repeats[entry.what].heard(entry, self._clock.elapsed()):
            self._entries.write(line)

    def stopped(
        self, who: Caller, asker: Asker, run_id: RunId, abort: bool, givers: frozenset[PeerId]
    ) -> None:
        """A run was ended; written if somebody else gave it to this agent.

        Args:
            who: Who called.
            asker: For whom: a driver in this home ends runs of others on their behalf.
            run_id: Of the run.
            abort: Whether nothing of it is kept.
            givers: The peers that gave it.
        """
        if givers <= {asker.peer_id}:
            return
        word, name, role = self._told(who)
        why = "aborted" if abort else ""
        self._entries.write(Entry(What.STOPPED, word, str(run_id), name, role, why))

    def tagged(self, who: Caller, tag: TagRecord) -> None:
        """A tag was said; written if it was taken back."""
        if tag.run_id is None:
            word, name, role = self._told(who)
            self._entries.write(Entry(What.DELETED, word, f"tag {tag.repo} {tag.tag}", name, role))

    def removed(self, who: Caller, run_id: RunId) -> None:
        """A run was removed."""
        word, name, role = self._told(who)
        self._entries.write(Entry(What.DELETED, word, f"run {run_id}", name, role))

    def _told(self, who: Caller | None) -> tuple[str, str, str]:
        match who:
            case Member(peer_id, role):
                known = self._picture().members.get(peer_id)
                return str(peer_id), known.name if known else "", role.value
            case Owner():
                return "owner", "", ""
            case Stranger() | None:
                return "stranger", "", ""


def _kept_in(path: Path) -> Seen:
    try:
        return seen_from(path.read_bytes())
    except FileNotFoundError:
        return NOTHING
    except Invalid as error:  # all of it is told again
        log.warning("%s: %s", path, error)
        return NOTHING
