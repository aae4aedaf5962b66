"""Whom a command greets when it hears of more than it can greet at once."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.faults import Unreachable
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.gathering import HINT_SECONDS, MOST_ASKED, MOST_AT_ONCE, Gathering
from dstack_mesh.membership.known import FoundBy, Target
from dstack_mesh.membership.view import Heard

OWN, ANA = PeerId("o" * 32), PeerId("a" * 32)
AT_ANA = Address("10.0.0.2:7420")


class Answering:
    """Ana answers after `ana` seconds; of the others each fails after what `others` says of its
    number."""

    def __init__(self, others: Callable[[int], float], ana: float = 0.0) -> None:
        self._others = others
        self._ana = ana
        self.asked = 0
        self.now = 0
        self.most = 0

    async def hello(self, target: Target, within: float) -> HelloAnswer:
        self.asked += 1
        if target.address == AT_ANA:
            await asyncio.sleep(self._ana)
            card = PeerCard(ANA, MeshId("m" * 32), "ws-a", (AT_ANA,), "1", agent=True)
            machine = Machine(1, 2, 3, 4)
            return HelloAnswer(card, AgentState.ALIVE, machine, (), (), datetime.now(UTC))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(min(within, self._others(self.asked)))
        finally:
            self.now -= 1
        raise Unreachable(f"{target.address} does not answer.")

    async def forget(self, target: Target) -> None:
        return


def fakes(count: int, found_by: FoundBy = "mdns") -> list[Heard]:
    """As many at addresses of their own."""
    places = [Address(f"10.{1 + n // 65536}.{n // 256 % 256}.{n % 256}:1") for n in range(count)]
    return [Heard(Target(place), found_by) for place in places]


async def seconds_until_found(greeter: Answering, heard: list[Heard]) -> float:
    """Until Ana is found, of whom is heard last."""
    gathering, clock = Gathering(greeter, OWN, Random(7)), asyncio.get_running_loop().time
    began = clock()

    async def gather() -> None:
        async with asyncio.TaskGroup() as tasks:
            gathering.start(tasks, 60)
            for one in (*heard, Heard(Target(AT_ANA), "mdns")):
                gathering.ask(one)

    gathered = asyncio.create_task(gather())
    found = await gathering.results.get()
    assert found is not None and found.card.peer_id == ANA
    took = clock() - began
    gathered.cancel()
    await asyncio.wait([gathered])
    return took


async def test_fakes_that_say_nothing_shut_nobody_out() -> None:
    greeter = Answering(lambda number: 60.0)
    rounds = 3
    took = await seconds_until_found(greeter, fakes(rounds * MOST_AT_ONCE - 1))
    assert took < rounds * HINT_SECONDS + 2
    assert greeter.most == MOST_AT_ONCE


async def test_fakes_that_refuse_make_room_at_once() -> None:
    greeter = Answering(lambda number: 0.0)
    took = await seconds_until_found(greeter, fakes(MOST_ASKED - 1))
    assert took < 5
    assert greeter.most <= MOST_AT_ONCE


async def test_who_answers_slowly_gets_another_turn() -> None:
    slow = Answering(lambda number: 60.0 if number <= 2 else 0.0)
    gathering = Gathering(slow, OWN)
    async with asyncio.TaskGroup() as tasks:
        gathering.start(tasks, 30)
        for one in fakes(1):
            gathering.ask(one)
            gathering.ask(one)
    assert slow.asked == 3


async def test_seeds_and_memory_wait_for_no_turn_and_are_not_hurried() -> None:
    greeter = Answering(lambda number: 60.0)
    gathering = Gathering(greeter, OWN)
    async with asyncio.TaskGroup() as tasks:
        gathering.start(tasks, 60)
        for one in fakes(2 * MOST_AT_ONCE):
            gathering.ask(one)
        await asyncio.sleep(0)
        gathering.ask(Heard(Target(AT_ANA, ANA), "saved"))
        found = await gathering.results.get()
        assert found is not None and found.card.peer_id == ANA
        await gathering.until_settled(0.05)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    assert greeter.most == MOST_AT_ONCE


async def test_more_than_so_many_are_not_greeted() -> None:
    greeter = Answering(lambda number: 0.0)
    gathering = Gathering(greeter, OWN)
    async with asyncio.TaskGroup() as tasks:
        gathering.start(tasks, 5)
        for one in fakes(MOST_ASKED + 100):
            gathering.ask(one)
    assert greeter.asked == MOST_ASKED


async def test_a_seed_that_answers_late_ends_the_search_at_once() -> None:
    greeter = Answering(lambda number: 60.0)
    gathering = Gathering(greeter, OWN)
    async with asyncio.TaskGroup() as tasks:
        gathering.start(tasks, 60)
        quiet = asyncio.create_task(gathering.until_quiet(60.0))
        await asyncio.sleep(0)
        assert not quiet.done()
        gathering.ask(Heard(Target(AT_ANA), "seed"))
        await quiet


async def test_who_needs_most_of_a_turn_to_say_who_it_is_has_another_to_prove_it() -> None:
    greeter = Answering(lambda number: 0.0, ana=0.8 * HINT_SECONDS)
    assert await seconds_until_found(greeter, []) < 2 * HINT_SECONDS


async def test_who_refused_a_moment_ago_and_is_announced_now_is_greeted_again() -> None:
    gathering, up = Gathering(late := Late(), OWN), Heard(Target(AT_ANA), "mdns")
    async with asyncio.TaskGroup() as tasks:
        gathering.start(tasks, 5)
        gathering.ask(Heard(Target(AT_ANA, ANA), "saved"))
        await gathering.until_settled(1)
        late.up = True
        gathering.ask(up)
    assert [one.card.peer_id for one in gathering.answered] == [ANA]


class Late(Answering):
    """Ana, who is not there at first."""

    def __init__(self) -> None:
        super().__init__(lambda number: 0.0)
        self.up = False

    async def hello(self, target: Target, within: float) -> HelloAnswer:
        if not self.up:
            raise Unreachable("Nobody listens there.")
        return await super().hello(target, within)
