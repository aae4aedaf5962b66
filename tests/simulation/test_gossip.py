"""The gossip of many peers with made-up time and network: how fast news is everywhere."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.ids import PeerId
from dstack_mesh.records.gossip import (
    Behind,
    Changed,
    Event,
    Exchange,
    Exchanged,
    Gossip,
    Peers,
    Policy,
    Push,
    Pushed,
    Tick,
)
from dstack_mesh.records.hybrid import Hybrid
from dstack_mesh.records.pen import Pen
from dstack_mesh.records.record import NOTHING, Delta, Entry, Version
from dstack_mesh.records.replica import Outcome, Replica
from dstack_mesh.signing import Signer
from support.rounds import rounds, seeded

NOW_MS = 1_900_000_000_000


@dataclass
class Sim:
    """Peers, a clock, and messages that take 1 to 20 ms and sometimes get lost."""

    chance: random.Random
    policy: Policy
    loss: float = 0.0
    now: float = 0.0
    sent: int = 0
    peers: "dict[PeerId, SimPeer]" = field(default_factory=lambda: dict[PeerId, SimPeer]())
    cut: Callable[[PeerId, PeerId], bool] = lambda a, b: False
    taken: int = 0
    _queue: list[tuple[float, int, Callable[[], None]]] = field(
        default_factory=list[tuple[float, int, Callable[[], None]]]
    )
    _number: "itertools.count[int]" = field(default_factory=itertools.count)

    def add(self, many: int) -> None:
        for _ in range(many):
            peer = SimPeer(self, Signer(ec.generate_private_key(ec.SECP256R1())))
            self.peers[peer.id] = peer

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), what))

    def send(self, one: PeerId, other: PeerId, arrive: Callable[[], None]) -> bool:
        """Whether it gets through; then it arrives a little later."""
        self.sent += 1
        if self.cut(one, other) or self.chance.random() < self.loss:
            return False
        self.at(0.001 + 0.019 * self.chance.random(), arrive)
        return True

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float | None:
        """Plays; when `until` held, or None."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            before = self.taken
            what()
            if self.taken > before and until():
                return self.now
        self.now = end
        return None

    def everybody_answers(self) -> None:
        """Everybody knows who answers; as membership would say it, after a moment."""
        for peer in self.peers.values():
            others = [one for one in self.peers if one != peer.id]
            live = [one for one in others if not self.cut(peer.id, one)]
            peer.tell(Peers(live, [one for one in others if one not in live]))

    def alike(self) -> bool:
        versions = [peer.replica.versions() for peer in self.peers.values()]
        return all(one == versions[0] for one in versions)


class SimPeer:
    """The real core and the real replica, with a network of one function."""

    def __init__(self, sim: Sim, signer: Signer) -> None:
        self.sim = sim
        self.id = signer.peer_id
        self.pen = Pen(signer, 1)
        self.replica = Replica()
        self.gossip = Gossip(self.id, random.Random(sim.chance.random()), sim.policy)
        self.time = Hybrid()
        self.woken = float("inf")

    def write(self, key: str) -> None:
        held = self.replica.streams.get(self.id)
        self.time = self.time.next(NOW_MS)
        stream = self.pen.write(held, [Entry("run", key, key.encode())], self.time, NOW_MS)
        self.replica.put(stream)
        base = held.version if held is not None else NOTHING
        self.tell(Changed(self.id, base))

    def tell(self, event: Event) -> None:
        for effect in self.gossip.handle(event, self.sim.now):
            self.carry_out(effect)
        due = self.gossip.next_due()
        if due < self.woken:
            self.woken = due
            self.sim.at(max(due - self.sim.now, 0), self.wake)

    def wake(self) -> None:
        self.woken = float("inf")
        self.tell(Tick())

    def carry_out(self, effect: Push | Exchange) -> None:
        other = self.sim.peers[effect.peer]
        match effect:
            case Push(peer, bases):
                deltas = [self.replica.streams[writer].since(base) for writer, base in bases]
                writers = [writer for writer, _ in bases]

                def arrive() -> None:
                    news = other.take(deltas, self.id)
                    back = Pushed(peer, writers, news)
                    self.sim.send(peer, self.id, lambda: self.tell(back))

                if not self.sim.send(self.id, peer, arrive):
                    self.sim.at(1.0, lambda: self.tell(Pushed(peer, writers, None)))
            case Exchange(peer):
                known = self.replica.versions()

                def asked() -> None:
                    deltas, theirs = list(other.replica.lacking(known)), other.replica.versions()
                    self.sim.send(peer, self.id, lambda: answered(deltas, theirs))

                def answered(deltas: list[Delta], theirs: dict[PeerId, Version]) -> None:
                    self.take(deltas, peer)
                    lacking = list(self.replica.lacking(theirs))

                    def brought() -> None:
                        other.take(lacking, self.id)

                    if lacking:
                        self.sim.send(self.id, peer, brought)
                    self.tell(Exchanged(peer))

                if not self.sim.send(self.id, peer, asked):
                    self.sim.at(3.0, lambda: self.tell(Exchanged(peer)))

    def take(self, deltas: list[Delta], source: PeerId) -> int:
        news = 0
        for delta in deltas:
            base = self.replica.version(delta.writer)
            match self.replica.merge(delta, NOW_MS):
                case Outcome.TAKEN:
                    news += 1
                    self.sim.taken += 1
                    self.tell(Changed(delta.writer, base, source))
                case Outcome.UNFIT:
                    self.tell(Behind(source))
                case Outcome.KNOWN | Outcome.REFUSED:
                    pass
        return news


def lab(name: str, many: int, policy: Policy, loss: float = 0.0) -> Sim:
    sim = Sim(seeded(name), policy, loss)
    sim.add(many)
    sim.everybody_answers()
    for peer in sim.peers.values():
        peer.write("card")
    assert sim.run(200, until=sim.alike) is not None
    sim.run(5)
    return sim


def seconds_to_everybody(sim: Sim, key: str) -> float:
    writer = sim.chance.choice(list(sim.peers.values()))
    writer.write(key)
    began = sim.now
    version = writer.replica.version(writer.id)
    known = lambda: all(p.replica.version(writer.id) == version for p in sim.peers.values())  # noqa: E731
    done = sim.run(120, until=known)
    assert done is not None
    return done - began


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_change_is_known_to_fifty_peers_within_two_seconds(loss: float) -> None:
    sim = lab(f"fifty {loss}", 50, Policy(), loss)
    took = sorted(seconds_to_everybody(sim, f"run {n}") for n in range(rounds(10)))
    late = [seconds for seconds in took if seconds > 2]
    print(f"loss {loss}: median {took[len(took) // 2]:.2f} s, worst {took[-1]:.2f} s")
    assert not late


def test_the_checker_notices_gossip_that_misses_peers() -> None:
    sim = lab("one round", 50, Policy(rounds=1, fan_out=1))
    took = [seconds_to_everybody(sim, f"run {n}") for n in range(3)]
    assert max(took) > 2


def test_what_a_change_costs_a_peer_does_not_grow_with_the_mesh() -> None:
    cost: list[float] = []
    for many in (20, 60):
        sim = lab(f"cost {many}", many, Policy())
        before = sim.sent
        changes = 10
        for n in range(changes):
            seconds_to_everybody(sim, f"run {n}")
            sim.run(5)  # what is still sent of it counts too
        cost.append((sim.sent - before) / many / changes)
    print(f"messages a peer and change: {cost[0]:.1f} of 20, {cost[1]:.1f} of 60")
    assert cost[1] <= 1.05 * cost[0]


def test_two_partitions_that_heal_are_alike_within_ten_seconds() -> None:
    """Membership never says that the others are back: an exchange with those away finds out."""
    worst = 0.0
    for n in range(rounds(2)):
        sim = lab(f"partitions {n}", 12, Policy())
        ids = list(sim.peers)
        side = {peer: index % 2 for index, peer in enumerate(ids)}
        sim.cut = lambda a, b, side=side: side[a] != side[b]
        sim.everybody_answers()
        for number in range(60):
            sim.chance.choice(list(sim.peers.values())).write(f"run {number}")
            sim.run(0.5)
        assert not sim.alike()
        sim.cut = lambda a, b: False
        began = sim.now
        done = sim.run(20, until=sim.alike)
        assert done is not None
        worst = max(worst, done - began)
        written = {f"run {number}" for number in range(60)}
        shown = {
            record.entry.key
            for stream in sim.peers[ids[0]].replica.streams.values()
            for record in stream.records.values()
        }
        assert written <= shown
    print(f"healed within {worst:.1f} s")
    assert worst <= 10


def test_a_stream_that_changes_all_the_time_is_still_told() -> None:
    sim = lab("busy", 10, Policy())
    writer = next(iter(sim.peers.values()))
    for number in range(200):
        writer.write(f"run {number}")
        sim.run(0.02)
    behind = [
        writer.replica.version(writer.id).seq - peer.replica.version(writer.id).seq
        for peer in sim.peers.values()
    ]
    assert max(behind) < 60


def test_nothing_is_due_while_the_peer_that_has_more_is_exchanged_with() -> None:
    one, other = PeerId("one"), PeerId("other")
    gossip = Gossip(one, random.Random(1))
    assert gossip.handle(Behind(other), 1.0) == [Exchange(other, "it has more")]
    assert gossip.handle(Behind(other), 1.5) == []
    assert gossip.next_due() > 1.5
    assert gossip.handle(Exchanged(other), 2.0) == [Exchange(other, "it has more")]
