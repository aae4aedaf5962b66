"""With whom to bring the roster together, and when. Pure: events and the time in, peers out.

    a change here                 up to sixteen live agents at once; each of them does the same
    somebody's roster differs     that one, at once
    half a minute went by         one live agent, by chance

So a change reaches everybody in a few steps, a peer that was away learns it at its first contact,
and what both of these miss is found within half a minute.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId


@frozen
class Pace:
    """How often.

    Attributes:
        fan_out: Agents that are told of a change at once.
        interval: Seconds between exchanges without a reason, ±20 %.
        retry: Seconds before an exchange that failed or changed nothing is tried again.
        most_at_once: Exchanges that go on at the same time.
    """

    fan_out: int = 16
    interval: float = 30.0
    retry: float = 2.0
    most_at_once: int = 16


@frozen
class Live:
    """An agent that answers, and the digest of its roster as it said last; "" if it did not.

    What it said may be older than an exchange, and then is no news.
    """

    peer_id: PeerId
    digest: str = ""


@dataclass(slots=True)
class _Kept:
    """What is remembered of one agent: what it knows, as far as we know, and what it said last."""

    digest: str | None = None
    said: str = ""
    owed: bool = True
    going_on: bool = False
    heard_meanwhile: bool = False
    not_before: float = float("-inf")
    settled: tuple[str, str] = ("", "")


@dataclass(slots=True)
class Spreading:
    """Decides. `own` is the digest of our roster.

    Args:
        random: Chooses among equals.
        pace: How often.
    """

    own: str
    random: Random
    pace: Pace = field(default_factory=Pace)
    _agents: dict[PeerId, _Kept] = field(default_factory=dict[PeerId, _Kept])
    _next_round: float = float("-inf")

    def changed(self, digest: str) -> None:
        """Our roster changed: some agents are owed it."""
        self.own = digest
        chosen = list(self._agents.values())
        self.random.shuffle(chosen)
        for kept in chosen[: self.pace.fan_out]:
            kept.owed, kept.not_before = True, float("-inf")

    def done(self, peer_id: PeerId, digest: str, now: float) -> None:
        """An exchange ended; `digest` is what the agent knew then."""
        kept = self._agents.get(peer_id)
        if kept is not None:
            kept.going_on, kept.digest = False, kept.said if kept.heard_meanwhile else digest
            kept.settled = (self.own, digest)
            kept.not_before = now + self.pace.retry if digest != self.own else now

    def failed(self, peer_id: PeerId, now: float) -> None:
        """An exchange failed."""
        kept = self._agents.get(peer_id)
        if kept is not None:
            kept.going_on, kept.owed = False, True
            kept.not_before = now + self.pace.retry * (0.8 + 0.4 * self.random.random())

    def due(self, live: Iterable[Live], now: float) -> tuple[PeerId, ...]:
        """With whom to exchange now, of those that answer. Tell how each ended."""
        self._meet(live)
        if now >= self._next_round:
            self._next_round = now + self.pace.interval * (0.8 + 0.4 * self.random.random())
            if self._agents:
                self._agents[self.random.choice(list(self._agents))].owed = True
        room = self.pace.most_at_once - sum(kept.going_on for kept in self._agents.values())
        begun: list[PeerId] = []
        for peer_id, kept in self._agents.items():
            if len(begun) < room and self._is_due(kept, now):
                kept.going_on, kept.owed, kept.heard_meanwhile = True, False, False
                begun.append(peer_id)
        return tuple(begun)

    def _meet(self, live: Iterable[Live]) -> None:
        said = {one.peer_id: one.digest for one in live}
        for peer_id in self._agents.keys() - said.keys():
            if not self._agents[peer_id].going_on:
                del self._agents[peer_id]
        for peer_id, digest in said.items():
            kept = self._agents.setdefault(peer_id, _Kept())
            if digest != kept.said:
                kept.said = digest
                kept.digest = digest or kept.digest
                kept.heard_meanwhile = kept.going_on and bool(digest)

    def _is_due(self, kept: _Kept, now: float) -> bool:
        if kept.going_on or now < kept.not_before:
            return False
        theirs = kept.digest
        differs = theirs is not None and theirs != self.own and kept.settled != (self.own, theirs)
        return kept.owed or differs
