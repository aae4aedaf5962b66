"""A mesh of simulated peers that run the real membership core, judged by what is so.

The check plays a hundred peers for a minute. An hour of a thousand takes half an hour:
`DSTACK_SWIM_PEERS=1000 DSTACK_SWIM_SECONDS=3600 pytest tests/simulation -s`.
"""

import os

import pytest

from dstack_mesh.membership.pace import Pace
from dstack_mesh.membership.rumour import Rumour
from dstack_mesh.membership.swim import Swim
from support.rounds import seeded
from support.swarm import Swarm

PEERS = int(os.environ.get("DSTACK_SWIM_PEERS", "100"))
SECONDS = float(os.environ.get("DSTACK_SWIM_SECONDS", "60"))
FEW = 50
PER_HOUR = 0.1
"""Churn: joins, leaves and crashes in an hour, as a share of the peers."""

SETTLE = 15.0
"""Seconds at the end without churn, in which the last departure becomes known."""


class NeverObjects(Swim):
    """A core that does not refute, in a mesh that buries without a last call."""

    def _refute(self, rumour: Rumour) -> None:
        pass


def started(name: str, peers: int, loss: float, core: type[Swim] = Swim) -> Swarm:
    pace = Pace(calls=0) if core is NeverObjects else None
    swarm = Swarm(seeded(name).random(), loss, make=core, pace=pace)
    swarm.start(peers)
    assert swarm.all_alive()
    return swarm


def lived(name: str, peers: int, seconds: float, loss: float, per_hour: float) -> Swarm:
    swarm = started(name, peers, loss)
    if per_hour:
        swarm.at(10, swarm.crash)
        swarm.at(20, swarm.leave)
        swarm.churn(per_hour, seconds)
    swarm.run(seconds + SETTLE)
    print(
        f"{peers} peers, {seconds:.0f} s, {loss:.0%} loss: {len(swarm.false_deaths)} false deaths, "
        f"{sum(not one.left for one in swarm.departures)} crashes known after at most "
        f"{swarm.slowest(left=False):.1f} s, {sum(one.left for one in swarm.departures)} leaves "
        f"after {swarm.slowest(left=True):.1f} s, {swarm.messages_each:.3f} messages and "
        f"{swarm.rumour_bytes_each:.0f} bytes of rumours a second from each"
    )
    return swarm


def test_with_loss_and_churn_nobody_is_buried_alive_and_every_death_is_known_within_10_s() -> None:
    # A small mesh hardly changes in a minute; there, a day of churn happens in it.
    busy = PER_HOUR if SECONDS >= 3600 else 24 * PER_HOUR
    swarm = lived("churn", PEERS, SECONDS, 0.02, busy)
    assert {one.left for one in swarm.departures} == {False, True}
    assert swarm.false_deaths == []
    assert swarm.slowest(left=False) <= 10
    assert swarm.slowest(left=True) <= 5
    assert swarm.most_rumours <= Pace().most_rumours


def test_the_load_of_a_peer_does_not_grow_with_the_mesh() -> None:
    # In a minute a single departure would decide; in an hour there are some in the small mesh too.
    per_hour = PER_HOUR if SECONDS >= 3600 else 0.0
    many = lived("many", max(4 * FEW, PEERS), SECONDS, 0.02, per_hour)
    few = lived("few", FEW, SECONDS, 0.02, per_hour)
    assert many.messages_each == pytest.approx(few.messages_each, rel=0.1)
    assert many.rumour_bytes_each <= 3 * few.rumour_bytes_each


def test_of_a_lossy_network_no_false_death_remains() -> None:
    swarm = started("lossy", PEERS, 0.1)
    swarm.run(60)
    assert swarm.suspicions
    assert swarm.false_deaths == []


def test_a_mesh_that_never_objects_to_a_suspicion_is_caught() -> None:
    """The negative control: the judge sees the living who are buried."""
    swarm = started("mute", PEERS, 0.1, NeverObjects)
    swarm.run(60)
    assert swarm.false_deaths


def test_who_leaves_is_suspected_by_nobody() -> None:
    swarm = started("leave", FEW, 0.0)
    swarm.run(5)
    departure = swarm.leave()
    swarm.run(30)
    assert departure.known_at is not None
    assert departure.known_at - departure.at <= 3
    assert set(swarm.standings(departure.peer_id).values()) == {"left"}
    assert swarm.suspicions == 0


def test_two_halves_that_were_cut_are_one_again_soon_after() -> None:
    swarm = started("halves", FEW, 0.02)
    swarm.run(5)
    swarm.split(2)
    swarm.run(60)
    assert not swarm.all_alive()
    assert swarm.false_deaths == []
    swarm.heal()
    swarm.run(70)
    assert swarm.all_alive()


def test_who_stood_still_suspects_nobody_for_it_and_is_alive_again() -> None:
    swarm = started("frozen", FEW, 0.02)
    swarm.run(5)
    frozen = next(iter(swarm.peers))
    swarm.freeze(frozen, 15)
    swarm.run(19)
    assert set(swarm.standings(frozen).values()) == {"gone"}
    before = swarm.suspicions
    swarm.run(30)
    assert swarm.suspicions == before
    assert swarm.false_deaths == []
    assert swarm.all_alive()


def test_a_newcomer_knows_everybody_at_once_and_everybody_soon_knows_it() -> None:
    swarm = started("join", PEERS, 0.0)
    swarm.run(5)
    newcomer = swarm.join()
    swarm.run(8)
    assert len(newcomer.swim.members) == PEERS
    swarm.run(15)
    assert swarm.all_alive()


def test_the_same_seed_gives_the_same_history() -> None:
    histories: list[tuple[int, int]] = []
    for _ in range(2):
        swarm = Swarm("twice", 0.05)
        swarm.start(20)
        swarm.churn(100, 20)
        swarm.run(30)
        histories.append((swarm.messages, swarm.rumours))
    assert histories[0] == histories[1]
