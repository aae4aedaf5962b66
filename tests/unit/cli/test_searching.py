"""How long a command waits for whom."""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import cast

import pytest

from dstack_cli.searching import Patience, Search
from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.machine import AgentState, Machine
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.membership.roll import RollCall

PATIENCE = Patience(enough=0.2, quiet=0.5, lonely=1.0, longest=3.0)


def agent(name: str) -> KnownAgent:
    card = PeerCard(PeerId(name), MeshId("m"), name, (Address("10.0.0.1:1"),), "", True)
    answer = HelloAnswer(card, AgentState.ALIVE, Machine(1, 1, 1, 1), (), (), datetime.now(UTC))
    return KnownAgent(card, card.addresses, "seed", "alive", answer)


class Roll:
    """Agents that answer after some time; never: it stays open."""

    def __init__(self, after: dict[str, float]) -> None:
        self.after = after

    async def gather(self, within: float) -> AsyncGenerator[KnownAgent]:
        now = 0.0
        for name, seconds in sorted(self.after.items(), key=lambda item: item[1]):
            await asyncio.sleep(seconds - now)
            now = seconds
            yield agent(name)


async def asked(roll: Roll, answers: dict[str, tuple[float, bool]]) -> tuple[set[str], float]:
    """Who answered, and how long it took. Answers take some time and may be for all."""

    async def ask(known: KnownAgent) -> bool | None:
        seconds, for_all = answers[known.card.name]
        await asyncio.sleep(seconds)
        return for_all

    search = Search(PATIENCE, ask, lambda for_all: for_all)
    began = time.monotonic()
    await search.run(cast("RollCall", roll))
    return {str(peer) for peer in search.answers}, time.monotonic() - began


@pytest.mark.timed
async def test_nobody_is_waited_for_long_once_one_answered_for_all() -> None:
    roll = Roll({"a": 0.0, "b": 0.0, "never": 60})
    found, took = await asked(roll, {"a": (0.0, True), "b": (60, True)})
    assert found == {"a"}
    assert 0.1 < took < 0.45


async def test_who_answers_shortly_after_is_taken_along() -> None:
    roll = Roll({"a": 0.0, "b": 0.05, "never": 60})
    found, _ = await asked(roll, {"a": (0.0, True), "b": (0.05, False)})
    assert found == {"a", "b"}


@pytest.mark.timed
async def test_where_everybody_has_answered_nothing_is_waited_for() -> None:
    found, took = await asked(Roll({"a": 0.0, "b": 0.0}), {"a": (0, True), "b": (0, True)})
    assert found == {"a", "b"}
    assert took < 0.15


async def test_agents_that_answer_for_themselves_alone_are_all_waited_for() -> None:
    found, _ = await asked(Roll({"a": 0.0, "b": 0.0}), {"a": (0, False), "b": (0.6, False)})
    assert found == {"a", "b"}


@pytest.mark.parametrize("after", [{"never": 60.0}])
async def test_where_nobody_answers_it_ends(after: dict[str, float]) -> None:
    found, took = await asked(Roll(after), {})
    assert not found
    assert took < 1.5


async def test_what_goes_wrong_while_asking_is_not_swallowed() -> None:
    async def ask(known: KnownAgent) -> bool:
        raise ZeroDivisionError

    search = Search(PATIENCE, ask, lambda _: False)
    with pytest.raises(ZeroDivisionError):
        await search.run(cast("RollCall", Roll({"a": 0.0})))
