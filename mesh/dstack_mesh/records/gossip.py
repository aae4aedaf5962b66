"""Whom to tell what, and whom to ask when. Pure: events and the time go in, effects come out.

    a stream changed ── 0.1 s, for what else changes ── push to 3 that answer, then to 3 others
    it came from another ── 0.05 s ── the same
    every 30 s, and when somebody is met or answers again ── exchange with one that answers
    the roster lets somebody write whose records were held back ── exchange with it
    every 5 s ── exchange with one that is away: a partition heals however long membership sleeps

Pushes make news fast, exchanges make it certain. Both cost the same in a mesh of any size. One of
three is the next by id, and the others are chosen by chance: chance is fast, but leaves somebody
out now and then; of the next ones in a ring nobody is left out.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import assert_never

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.records.record import Version


@frozen
class Changed:
    """A stream has a newer version here. `base` is the one before, `source` who brought it."""

    writer: PeerId
    base: Version
    source: PeerId | None = None


@frozen
class Peers:
    """Who answers now, and who is known and does not."""

    live: Sequence[PeerId]
    away: Sequence[PeerId] = ()


@frozen
class Pushed:
    """A push ended. `news` is how many streams were; None if it failed."""

    peer: PeerId
    writers: Sequence[PeerId]
    news: int | None


@frozen
class Behind:
    """What a peer brought did not fit: it has more than we do."""

    peer: PeerId


@frozen
class Exchanged:
    """An exchange ended, well or not."""

    peer: PeerId


@frozen
class Believed:
    """Writers whose records were held back may write now."""

    writers: Collection[PeerId]


@frozen
class Tick:
    """Time passed."""


Event = Changed | Peers | Pushed | Behind | Exchanged | Believed | Tick


@frozen
class Push:
    """Send this peer what changed since these versions; report Pushed."""

    peer: PeerId
    bases: tuple[tuple[PeerId, Version], ...]
    cause: str


@frozen
class Exchange:
    """Exchange with this peer; report Exchanged."""

    peer: PeerId
    cause: str


Effect = Push | Exchange


@frozen
class Policy:
    """How gossip behaves; seconds and counts.

    Attributes:
        gather: From a change of our own to its push. Longer: fewer messages; shorter: earlier news.
        relay: The same for news of others.
        fan_out: Peers told in a round.
        rounds: Rounds of one piece of news. More: fewer peers are missed, more is sent.
        pause: Between rounds.
        interval: Between exchanges, ±20 %.
        away_interval: Between exchanges tried with peers that do not answer, ±20 %.
        greetings: Exchanges at once with those that answer again; the others hear it from these.
        most_exchanges: Exchanges at a time.
        most_waiting: Peers that wait for one.
    """

    gather: float = 0.1
    relay: float = 0.05
    fan_out: int = 3
    rounds: int = 2
    pause: float = 0.3
    interval: float = 30.0
    away_interval: float = 5.0
    greetings: int = 3
    most_exchanges: int = 4
    most_waiting: int = 16


@dataclass(slots=True)
class _Rumor:
    """News that is being spread: since which version, and who knows it."""

    base: Version
    due: float
    rounds: int
    told: set[PeerId]


@dataclass(slots=True)
class Gossip:
    """The gossip of one peer, `own`. `random` spreads what peers do that started together."""

    own: PeerId
    random: Random
    policy: Policy = Policy()  # noqa: RUF009 - frozen
    _live: tuple[PeerId, ...] = ()
    _away: tuple[PeerId, ...] = ()
    _rumors: dict[PeerId, _Rumor] = field(default_factory=dict[PeerId, _Rumor])
    _waiting: dict[PeerId, tuple[float, str]] = field(
        default_factory=dict[PeerId, tuple[float, str]]
    )
    _exchanging: set[PeerId] = field(default_factory=set[PeerId])
    _exchange_due: float | None = None
    _away_due: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes an event in and says what to do."""
        match event:
            case Changed():
                self._changed(event, now)
            case Peers():
                self._peers(event, now)
            case Pushed():
                self._pushed(event)
            case Behind(peer):
                self._want(peer, now, "it has more")
            case Exchanged(peer):
                self._exchanging.discard(peer)
            case Believed(writers):
                self._believed(writers, now)
            case Tick():
                pass
            case _:
                assert_never(event)
        self._now_and_then(now)
        return [*self._pushes(now), *self._exchanges(now)]

    def next_due(self) -> float:
        """When the next Tick could matter; infinity if only another event can change something."""
        dues = [rumor.due for rumor in self._rumors.values()]
        if len(self._exchanging) < self.policy.most_exchanges:
            waiting = self._waiting.items()
            dues += [due for peer, (due, _) in waiting if peer not in self._exchanging]
        dues += [due for due in (self._exchange_due, self._away_due) if due is not None]
        return min(dues, default=float("inf"))

    def _changed(self, event: Changed, now: float) -> None:
        policy = self.policy
        told = {event.writer} if event.source is None else {event.writer, event.source}
        earlier = self._rumors.get(event.writer)
        base = event.base if earlier is None else min(earlier.base, event.base)
        due = now + (policy.gather if event.source is None else policy.relay)
        if earlier is not None and earlier.rounds == policy.rounds:
            due = min(
                due, earlier.due
            )  # a stream that changes all the time is told of all the same
        self._rumors[event.writer] = _Rumor(base, due, policy.rounds, told)

    def _peers(self, event: Peers, now: float) -> None:
        new = sorted(set(event.live) - set(self._live))
        self._live, self._away = tuple(event.live), tuple(event.away)
        for peer in self._some(new, self.policy.greetings):
            self._want(peer, now + 0.2 * self.random.random(), "it answers")

    def _pushed(self, event: Pushed) -> None:
        for writer in event.writers:
            rumor = self._rumors.get(writer)
            if rumor is not None and event.news is None:
                rumor.told.discard(event.peer)

    def _believed(self, writers: Collection[PeerId], now: float) -> None:
        """Each has its own records; those of who does not answer somebody else may have."""
        answering = sorted(set(writers) & set(self._live))
        silent = len(writers) > len(answering)
        for peer in [*answering, *(self._some(self._live, 1) if silent else ())]:
            self._want(peer, now, "it is believed now")

    def _want(self, peer: PeerId, due: float, cause: str) -> None:
        if peer in self._waiting or len(self._waiting) < self.policy.most_waiting:
            earlier = self._waiting.get(peer)
            self._waiting[peer] = (due, cause) if earlier is None else min(earlier, (due, cause))

    def _now_and_then(self, now: float) -> None:
        policy = self.policy
        if self._exchange_due is None or now >= self._exchange_due:
            if self._exchange_due is not None and self._live:
                self._want(self.random.choice(self._live), now, "now and then")
            self._exchange_due = now + self._about(policy.interval)
        if self._away_due is None or now >= self._away_due:
            if self._away_due is not None and self._away:
                self._want(self.random.choice(self._away), now, "it may be back")
            self._away_due = now + self._about(policy.away_interval)

    def _pushes(self, now: float) -> Iterable[Push]:
        bases: dict[PeerId, list[tuple[PeerId, Version]]] = {}
        for writer, rumor in list(self._rumors.items()):
            if rumor.due > now:
                continue
            chosen = self._chosen([peer for peer in self._live if peer not in rumor.told])
            rumor.told.update(chosen)
            rumor.rounds -= 1
            rumor.due = now + self._about(self.policy.pause)
            for peer in chosen:
                bases.setdefault(peer, []).append((writer, rumor.base))
            if rumor.rounds == 0 or not chosen:
                del self._rumors[writer]
        return [Push(peer, tuple(news), "news") for peer, news in bases.items()]

    def _exchanges(self, now: float) -> Iterable[Exchange]:
        for peer, (due, cause) in sorted(self._waiting.items(), key=lambda item: item[1]):
            if len(self._exchanging) >= self.policy.most_exchanges:
                return
            if due <= now and peer not in self._exchanging:
                del self._waiting[peer]
                self._exchanging.add(peer)
                yield Exchange(peer, cause)

    def _chosen(self, untold: Sequence[PeerId]) -> list[PeerId]:
        """The next one in the ring of ids, and others by chance."""
        if not untold:
            return []
        after = min(untold, key=lambda peer: (peer < self.own, peer))
        others = [peer for peer in untold if peer != after]
        return [after, *self._some(others, self.policy.fan_out - 1)]

    def _some(self, peers: Sequence[PeerId], most: int) -> list[PeerId]:
        return self.random.sample(peers, min(most, len(peers)))

    def _about(self, seconds: float) -> float:
        return seconds * (0.8 + 0.4 * self.random.random())
