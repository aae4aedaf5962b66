"""With whom a roster is exchanged, and when."""

import asyncio
from random import Random

from dstack_mesh.ids import PeerId
from dstack_mesh.trust.roster.spreading import Live, Pace, Spreading
from dstack_mesh.wire.roster import MOST_OF_ONE, Turns

PACE = Pace(fan_out=3, interval=30.0, retry=2.0, most_at_once=4)


def live(*names: str, digest: str = "same") -> list[Live]:
    return [Live(PeerId(name), digest) for name in names]


def settled(core: Spreading, agents: list[Live], now: float) -> None:
    """All exchanges that are due succeed until nothing is."""
    while due := core.due(agents, now):
        for peer in due:
            core.done(peer, core.own, now)


def calm(agents: list[Live], seed: int = 1) -> Spreading:
    core = Spreading("same", Random(seed), PACE)
    settled(core, agents, 0.0)
    return core


def test_somebody_new_is_exchanged_with_once() -> None:
    core = Spreading("same", Random(1), PACE)
    assert core.due(live("a"), 0.0) == ("a",)
    assert core.due(live("a"), 0.1) == ()
    core.done(PeerId("a"), "same", 0.2)
    assert core.due(live("a"), 0.3) == ()


def test_whoever_knows_something_else_is_next_at_once() -> None:
    core = calm(live("a", "b"))
    assert core.due([*live("a"), *live("b", digest="other")], 1.0) == ("b",)


def test_a_change_goes_to_a_few_at_once_and_they_pass_it_on() -> None:
    agents = live("a", "b", "c", "d", "e")
    core = calm(agents)
    core.changed("new")
    said = [Live(one.peer_id, "new") for one in agents]
    assert len(core.due(said, 1.0)) == PACE.fan_out


def test_a_change_that_the_agents_have_not_heard_of_reaches_all_of_them() -> None:
    agents = live("a", "b", "c", "d", "e")
    core = calm(agents)
    core.changed("new")
    reached: set[str] = set()
    while due := core.due(agents, 1.0):
        assert len(due) <= PACE.most_at_once
        for peer in due:
            core.done(peer, "new", 1.0)
        reached |= set(due)
        agents = [Live(one.peer_id, "new" if one.peer_id in reached else "same") for one in agents]
    assert reached == {"a", "b", "c", "d", "e"}


def test_without_news_one_agent_in_half_a_minute() -> None:
    agents = live("a", "b", "c")
    core = calm(agents)
    begun = 0
    for second in range(1, 601):
        for peer in core.due(agents, float(second)):
            core.done(peer, "same", float(second))
            begun += 1
    assert 600 / 36 - 1 <= begun <= 600 / 24 + 1


def test_what_failed_is_tried_again_and_not_at_once() -> None:
    core = Spreading("same", Random(1), PACE)
    assert core.due(live("a"), 0.0) == ("a",)
    core.failed(PeerId("a"), 0.0)
    assert core.due(live("a"), 1.0) == ()
    assert core.due(live("a"), 3.0) == ("a",)


def test_two_who_cannot_agree_do_not_exchange_for_ever() -> None:
    core = calm([])
    stubborn = live("a", digest="other")
    begun = 0
    for tenth in range(1, 200):
        for peer in core.due(stubborn, tenth / 10):
            core.done(peer, "other", tenth / 10)
            begun += 1
    assert begun <= 2


def test_what_an_agent_said_before_an_exchange_is_no_reason_for_another() -> None:
    agents = live("a", "b", "c")
    core = calm(agents)
    core.changed("new")
    begun = 0
    for tenth in range(1, 100):  # of seconds: so long they say what they said before
        for peer in core.due(agents, tenth / 10):
            core.done(peer, "new", tenth / 10)
            begun += 1
    assert begun == 3
    assert core.due([*live("a", "b", digest="new"), *live("c")], 10.0) == ()
    assert core.due(live("a", "b", "c", digest="newer"), 10.1) == ("a", "b", "c")


def test_who_went_away_is_forgotten_and_new_when_it_is_back() -> None:
    core = calm(live("a"))
    assert core.due([], 1.0) == ()
    assert core.due(live("a"), 2.0) == ("a",)


async def test_whoever_exchanges_much_at_once_waits_for_itself_and_nobody_for_it() -> None:
    turns, going_on, enough = Turns(), 0, asyncio.Event()

    async def exchange(peer: str) -> None:
        nonlocal going_on
        async with turns.of(PeerId(peer)):
            going_on += 1
            await enough.wait()
            going_on -= 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(exchange("greedy"))
        await asyncio.sleep(0)
        assert going_on == MOST_OF_ONE
        modest = tasks.create_task(exchange("modest"))
        await asyncio.sleep(0)
        assert going_on == MOST_OF_ONE + 1
        enough.set()
        await modest
    assert going_on == 0


def test_news_that_come_during_an_exchange_are_a_reason_for_the_next() -> None:
    core = calm(live("a"))
    core.changed("new")
    assert core.due(live("a"), 1.0) == ("a",)
    assert core.due(live("a", digest="newest"), 1.1) == ()
    core.done(PeerId("a"), "new", 1.2)
    assert core.due(live("a", digest="newest"), 1.3) == ("a",)
