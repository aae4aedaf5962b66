"""Many drivers want few cards: played through with real auctions and honest agents."""

import random
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import Busy
from dstack_mesh.ids import HoldId, MeshId, PeerId
from dstack_scheduler.agent_port import Hold
from dstack_scheduler.auction import Auction
from dstack_scheduler.auction_events import (
    AllFound,
    Answered,
    Ask,
    Award,
    Declined,
    Effect,
    Event,
    Found,
    GiveUp,
    Held,
    Look,
    Lot,
    Reserve,
    Tell,
    Tick,
    WakeAt,
)
from dstack_scheduler.verdict import Bid, Later, Now, Reason

LONGEST = 600.0


@dataclass
class Machine:
    """An agent with cards, each of which one client has or nobody."""

    card: PeerCard
    cards: int
    owners: list[int] = field(default_factory=list[int])
    most: int = 0

    def bid(self) -> Bid:
        left = self.cards - len(self.owners)
        if left < 1:
            return Bid(Later((Reason("gpu-busy", "Its cards are taken."),)))
        return Bid(Now((), left - 1, len(self.owners)))

    def take(self, client: int) -> bool:
        if len(self.owners) >= self.cards:
            return False
        self.owners.append(client)
        self.most = max(self.most, len(self.owners))
        return True


class World:
    """Clients, machines and messages that take their time."""

    def __init__(self, seed: int, clients: int, machines: int, cards: int) -> None:
        self.chance = random.Random(seed)
        self.machines: dict[PeerId, Machine] = {
            PeerId(f"ws-{n}"): Machine(
                PeerCard(PeerId(f"ws-{n}"), MeshId("m"), f"ws-{n}", (), "0", agent=True), cards
            )
            for n in range(machines)
        }
        self.auctions = [Auction(Lot(n, gpus=1), self.chance.random) for n in range(clients)]
        self.started: dict[int, float] = {}
        self.queue: list[tuple[float, int, int, Event | str]] = []
        self.order = count()
        self.now = 0.0

    def play(self) -> None:
        """Until every client had its card once."""
        for client, auction in enumerate(self.auctions):
            self.now = 0.0
            self.carry_out(client, auction.start(0.0))
        while self.queue and len(self.started) < len(self.auctions):
            self.now, _, client, event = heappop(self.queue)
            assert self.now < LONGEST, f"{len(self.auctions) - len(self.started)} wait for ever"
            if isinstance(event, str):
                self.machines[PeerId(event)].owners.remove(client)
            else:
                self.carry_out(client, self.auctions[client].handle(event, self.now))

    def send(self, client: int, event: Event | str, delay: float) -> None:
        heappush(self.queue, (self.now + delay, next(self.order), client, event))

    def carry_out(self, client: int, effects: list[Effect]) -> None:
        for effect in effects:
            self.do(client, effect)

    def do(self, client: int, effect: Effect) -> None:
        trip = self.chance.uniform(0.001, 0.05)
        match effect:
            case Look(round):
                for machine in self.machines.values():
                    self.send(client, Found(machine.card, False), trip)
                self.send(client, AllFound(round), trip)
            case Ask(peer, round):
                self.send(client, Answered(peer, round, self.machines[peer].bid()), trip)
            case Reserve(peer) if self.machines[peer].take(client):
                self.send(client, Held(peer, Hold(HoldId("h"), 15.0)), trip)
            case Reserve(peer):
                self.send(client, Declined(peer, Busy("It is not free any more.")), trip)
            case Award(peer):
                assert client not in self.started, "two owners of one job"
                self.started[client] = self.now
                self.send(client, str(peer), self.chance.uniform(0.1, 2.0))
            case WakeAt(at):
                self.send(client, Tick(), max(0.0, at - self.now))
            case Tell():
                pass
            case GiveUp(error):
                raise AssertionError(str(error))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_fifty_clients_share_eight_cards_and_nobody_waits_for_ever(
    seed: int, machines: int
) -> None:
    world = World(seed, clients=50, machines=machines, cards=8 // machines)

    world.play()

    assert len(world.started) == 50
    assert all(machine.most <= machine.cards for machine in world.machines.values())


class Generous(Machine):
    """Gives what it does not have."""

    def take(self, client: int) -> bool:
        self.owners.append(client)
        self.most = max(self.most, len(self.owners))
        return True


def test_the_checker_notices_a_machine_that_gives_a_card_twice() -> None:
    world = World(1, clients=50, machines=1, cards=8)
    (machine,) = world.machines.values()
    world.machines = {machine.card.peer_id: Generous(machine.card, machine.cards)}

    world.play()

    assert any(machine.most > machine.cards for machine in world.machines.values())
