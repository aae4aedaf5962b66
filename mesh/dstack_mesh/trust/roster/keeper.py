"""The roster as a running process knows it, and who is told when it changes."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from dstack_mesh.clock import Clock, SystemClock
from dstack_mesh.signing import Signed
from dstack_mesh.trust.roster.book import Book, Stamp
from dstack_mesh.trust.roster.chain import Heads
from dstack_mesh.trust.roster.picture import Picture
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import Sealed

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How soon is noticed what a command of this home wrote and could not tell us."""

AHEAD = timedelta(days=1)
"""How far a statement's time may be ahead of our clock; later ones wait for their time."""

Read = Callable[[Iterable[Signed]], list[Sealed]]
"""`dstack_mesh.wire.statements.readable`: leaves out what says nothing."""

Verify = Callable[[Iterable[Signed]], list[Sealed]]
"""`dstack_mesh.wire.statements.verified`: leaves out what nobody signed."""


class Keeper:
    """Holds the roster in memory beside the book. Use from one event loop.

    Args:
        book: On disk.
        read: Leaves out of what arrives whatever says nothing.
        verify: And whatever nobody signed.
        clock: To know what is dated too far ahead.
    """

    def __init__(self, book: Book, read: Read, verify: Verify, clock: Clock | None = None) -> None:
        self._book = book
        self._readable = read
        self._verify = verify
        self._clock = clock or SystemClock()
        self._stamp: Stamp | None = book.stamp()
        self._roster = book.open()
        self._turn = asyncio.Lock()
        self._listeners: list[Callable[[Picture], None]] = []

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def picture(self) -> Picture:
        """What is known now."""
        return self._roster.picture

    def subscribe(self, listener: Callable[[Picture], None]) -> None:
        """Calls it after every change, in the event loop."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Notices what other processes of this home write, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except OSError as error:  # a disk that fails; what was known holds
                log.warning("the roster on disk could not be read: %s", error)

    async def look(self) -> None:
        """Reads the book again if it changed."""
        async with self._turn:
            stamp = await asyncio.to_thread(self._book.stamp)
            if stamp != self._stamp:
                self._now(await asyncio.to_thread(self._read), stamp)

    async def absorb(self, arrived: Sequence[Signed]) -> int:
        """Takes in what a peer sent; how many statements were new and are kept.

        What nobody signed, what is not worth keeping, and what is dated a day ahead, is left out.
        """
        if not arrived:
            return 0
        async with self._turn:
            before = self._roster
            fresh = await asyncio.to_thread(self._verified, arrived)
            if fresh:
                self._now(*await asyncio.to_thread(self._add, fresh))
            return len(self._roster.statements.keys() - before.statements.keys())

    async def issue(self, write: Callable[[Roster], Sequence[Sealed]]) -> Roster:
        """Adds statements of our own. Raises Busy if the book is full."""
        async with self._turn:
            self._now(*await asyncio.to_thread(self._issue, write))
            return self._roster

    def missing_since(self, heads: Heads) -> tuple[Sealed, ...]:
        """What a peer with these heads lacks."""
        return self._roster.missing_since(heads)

    # In threads; each works out the picture there too.

    def _read(self) -> Roster:
        return _worked_out(self._roster.take(self._book.read().statements.values()))

    def _add(self, fresh: Iterable[Sealed]) -> tuple[Roster, Stamp | None]:
        try:
            return _worked_out(self._book.add([*self._known, *fresh])), self._book.stamp()
        except OSError as failed:  # who was revoked is refused although that cannot be written down
            log.error("the roster cannot be written: %s", failed)
            return _worked_out(self._roster.take(fresh)), self._stamp

    def _issue(self, write: Callable[[Roster], Sequence[Sealed]]) -> tuple[Roster, Stamp | None]:
        self._book.add(self._known)
        return _worked_out(self._book.issue(write)), self._book.stamp()

    @property
    def _known(self) -> Iterable[Sealed]:
        """What is in memory. Not all of it may be in the book: its disk may have been full."""
        return self._roster.statements.values()

    def _verified(self, arrived: Sequence[Signed]) -> list[Sealed]:
        known = {one.signed.body for one in self._known}
        read = self._readable(one for one in arrived if one.body not in known)
        latest = self._clock.now() + AHEAD
        timely = [one for one in read if one.statement.at <= latest]
        return self._verify(one.signed for one in self._roster.promising(timely))

    def _now(self, roster: Roster, stamp: Stamp | None) -> None:
        self._stamp = stamp
        if roster.statements.keys() == self._roster.statements.keys():
            return
        before, self._roster = self._roster, roster
        for forked in set(roster.picture.forked) - set(before.picture.forked):
            log.warning("%s signed two statements with one number; both count", forked)
        for listener in self._listeners:
            listener(roster.picture)


def _worked_out(roster: Roster) -> Roster:
    assert roster.picture is not None
    return roster
