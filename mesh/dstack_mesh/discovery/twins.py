"""Two machines with one peer id: a disk was copied, the home's key with it.

TLS cannot tell them apart, so each would get what is meant for the other. A peer says of itself
where it is reached. One that says so from elsewhere under our own id is a twin at once; of another
peer it may have moved, so it is a twin only if it goes back and forth within a minute.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from dstack_mesh.card import PeerCard, PeerHint
from dstack_mesh.clock import Clock
from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.identity import is_id
from dstack_mesh.ids import Address, PeerId

log = logging.getLogger(__name__)

BACK_AND_FORTH_SECONDS = 60.0
CHANGES_NEEDED = 3
MOST_WATCHED = 256
MOST_PLACES = 8
"""Addresses of a peer that are remembered."""

FRESH = timedelta(minutes=15)
"""How long a twin that was noticed is told of."""

AGAIN_SECONDS = 300.0
"""How often a twin that stays is logged and written down again."""


@frozen
class Twin:
    """A peer id that two machines use, and where they were."""

    peer_id: PeerId
    here: tuple[Address, ...]
    there: tuple[Address, ...]


class TwinWatch:
    """Notices them. Pure: who called from where and the time go in.

    Args:
        own: Who we are and where, as it is at the moment.
    """

    def __init__(self, own: Callable[[], PeerCard]) -> None:
        self._own = own
        self._seen: dict[PeerId, deque[tuple[float, frozenset[Address]]]] = {}

    def called(self, hint: PeerHint, now: float) -> Twin | None:
        """A peer told where it is; the twin that this proves, if it does."""
        hint = replace(hint, addresses=hint.addresses[:MOST_PLACES])
        own, there = self._own(), frozenset(hint.addresses)
        if not there:
            return None
        if hint.peer_id == own.peer_id:
            foreign = own.addresses and not there & frozenset(own.addresses)
            return Twin(own.peer_id, own.addresses, hint.addresses) if foreign else None
        places = self._places(hint.peer_id)
        if places and places[-1][1] & there:
            return None
        places.append((now, there))
        if len(places) <= CHANGES_NEEDED or now - places[0][0] > BACK_AND_FORTH_SECONDS:
            return None
        back = places[-1][1] & places[-3][1] and places[-2][1] & places[-4][1]
        return Twin(hint.peer_id, tuple(sorted(places[-2][1])), hint.addresses) if back else None

    def _places(self, peer_id: PeerId) -> deque[tuple[float, frozenset[Address]]]:
        if peer_id not in self._seen and len(self._seen) >= MOST_WATCHED:
            del self._seen[next(iter(self._seen))]
        return self._seen.setdefault(peer_id, deque(maxlen=CHANGES_NEEDED + 1))


class Twins:
    """Passes on who called, and says when a peer id turns out to be used twice: in the log, and in
    a file that `dstack-runner status` and `dstack doctor` read. Its `run` must run.

    Args:
        home: Where it is written down.
        own: Who we are and where, as it is at the moment.
        clock: For the times.
        pass_on: Told of every caller but ourselves from elsewhere.
    """

    def __init__(
        self,
        home: Home,
        own: Callable[[], PeerCard],
        clock: Clock,
        pass_on: Callable[[PeerHint], None],
    ) -> None:
        self._home = home
        self._clock = clock
        self._pass_on = pass_on
        self._watch = TwinWatch(own)
        self._own = own
        self._told: dict[PeerId, float] = {}
        self._news: asyncio.Queue[Twin] = asyncio.Queue(MOST_WATCHED)

    def heard(self, hint: PeerHint) -> None:
        """Takes note of an agent that called us. Never blocks."""
        now = self._clock.elapsed()
        twin = self._watch.called(hint, now)
        if twin is not None and now - self._told.get(twin.peer_id, -AGAIN_SECONDS) >= AGAIN_SECONDS:
            self._told[twin.peer_id] = now
            log.error("%s", sentence(twin))
            if not self._news.full():
                self._news.put_nowait(twin)
        if hint.peer_id != self._own().peer_id:
            self._pass_on(hint)

    async def run(self) -> None:
        """Writes down what was noticed, until cancelled."""
        while True:
            twin = await self._news.get()
            try:
                await asyncio.to_thread(_write, self._home, twin, self._clock.now())
            except OSError as failed:
                log.warning("that a peer id is used twice cannot be written down: %s", failed)


def sentence(twin: Twin) -> str:
    """What happened, for people."""
    here, there = ", ".join(twin.here), ", ".join(twin.there)
    return f"Two machines use the peer id {twin.peer_id[:12]}: one at {here}, one at {there}."


HINT = (
    "on the machine that has the copy, its agent stopped: rm -r DSTACK_HOME/keys DSTACK_HOME/state"
    " && dstack mesh join CODE"
)


def read_twins(home: Home, now: datetime) -> tuple[Twin, ...]:
    """What an agent of this home noticed lately. A file that cannot be read holds nothing."""
    try:
        content = json.loads(_file(home).read_text())
        found = [
            Twin(PeerId(one["peer_id"]), tuple(one["here"]), tuple(one["there"]))
            for one in content["twins"]
            if is_id(one["peer_id"]) and abs(now - datetime.fromisoformat(one["at"])) < FRESH
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(found)


def _write(home: Home, twin: Twin, now: datetime) -> None:
    others = [one for one in read_twins(home, now) if one.peer_id != twin.peer_id][:MOST_WATCHED]
    rows = [
        {"peer_id": one.peer_id, "here": one.here, "there": one.there, "at": now.isoformat()}
        for one in (twin, *others)
    ]
    write_durably(_file(home), json.dumps({"version": 1, "twins": rows}).encode())


def _file(home: Home) -> Path:
    return home.state / "twins.json"
