"""Two machines with one peer id."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_mesh.card import PeerCard, PeerHint
from dstack_mesh.clock import SystemClock
from dstack_mesh.discovery.twins import MOST_PLACES, Twin, Twins, TwinWatch, read_twins
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, MeshId, PeerId
from support.eventually import eventually_async

OWN, OTHER = PeerId("a" * 32), PeerId("b" * 32)
HERE = Address("10.0.0.1:7420")


def card() -> PeerCard:
    return PeerCard(OWN, MeshId("m" * 32), "ws-1", (HERE,), "0.1.0", agent=True)


def hint(peer_id: PeerId, *addresses: str) -> PeerHint:
    return PeerHint(peer_id, tuple(map(Address, addresses)))


def test_our_own_id_from_elsewhere_is_a_twin_at_once() -> None:
    twin = TwinWatch(card).called(hint(OWN, "10.0.0.2:7420"), 0.0)
    assert twin is not None
    assert (twin.here, twin.there) == ((HERE,), ("10.0.0.2:7420",))


def test_our_own_id_from_an_address_of_ours_is_us() -> None:
    assert TwinWatch(card).called(hint(OWN, "10.9.0.1:7420", HERE), 0.0) is None
    assert TwinWatch(card).called(hint(OWN), 0.0) is None


def test_a_peer_that_moves_and_moves_back_is_no_twin() -> None:
    watch = TwinWatch(card)
    places = ["10.0.0.2:1", "10.0.0.3:1", "10.0.0.2:1", "10.0.0.2:1", "10.0.0.4:1"]
    for at, place in enumerate(places):
        assert watch.called(hint(OTHER, place), at * 5.0) is None


def test_a_peer_that_goes_back_and_forth_is_two() -> None:
    watch = TwinWatch(card)
    found = [watch.called(hint(OTHER, f"10.0.0.{2 + at % 2}:1"), at * 5.0) for at in range(4)]
    assert found[:3] == [None, None, None]
    assert found[3] is not None and found[3].peer_id == OTHER


def test_a_peer_that_commutes_slowly_is_one() -> None:
    watch = TwinWatch(card)
    for at in range(20):
        assert watch.called(hint(OTHER, f"10.0.0.{2 + at % 2}:1"), at * 3600.0) is None


def test_of_a_peer_that_says_it_is_everywhere_a_few_places_are_remembered() -> None:
    everywhere = [f"10.{number >> 8}.{number & 255}.1:1" for number in range(60_000)]
    watch = TwinWatch(card)
    own = watch.called(hint(OWN, *everywhere), 0.0)
    assert own is not None and len(own.there) == MOST_PLACES
    places = everywhere[:1000], everywhere[1000:]
    found = [watch.called(hint(OTHER, *places[at % 2]), at * 5.0) for at in range(4)]
    assert found[3] is not None
    assert (len(found[3].here), len(found[3].there)) == (MOST_PLACES, MOST_PLACES)


async def test_a_twin_is_logged_once_written_down_and_told_until_it_is_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path)
    home.prepare()
    passed: list[PeerHint] = []
    twins = Twins(home, card, SystemClock(), passed.append)
    now = datetime.now(UTC)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(twins.run())
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                twins.heard(hint(OWN, "10.0.0.2:7420"))
        twins.heard(hint(OTHER, "10.0.0.3:7420"))

        async def written() -> tuple[Twin, ...]:
            return await asyncio.to_thread(read_twins, home, now)

        found = await eventually_async(written, within=5)
        running.cancel()
    assert [one.peer_id for one in passed] == [OTHER]
    assert len(caplog.records) == 1 and "10.0.0.2:7420" in caplog.text
    assert [one.peer_id for one in found] == [OWN]
    assert read_twins(home, now + timedelta(hours=1)) == ()


@pytest.mark.parametrize("content", ["", "{", '{"twins": [{"peer_id": "../x"}]}', "[]"])
def test_a_file_that_cannot_be_read_holds_nothing(tmp_path: Path, content: str) -> None:
    home = Home(tmp_path)
    home.prepare()
    (home.state / "twins.json").write_text(content)
    assert read_twins(home, datetime.now(UTC)) == ()
