"""One peer that asks for much holds nobody else up."""

import asyncio
import time
from typing import Any, cast

import pytest

from dstack_agent.servicers.resting import LONGEST_REST_SECONDS, REST, Rests
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.caller import Caller, Member, Owner, judge

ANA, BO = (Member(PeerId(letter * 32), Role.READER) for letter in "ab")


async def asked(rests: Rests, who: Caller, seconds: float) -> float:
    """An answer that keeps the loop busy for so long; when it began."""
    call = cast("Any", object())
    judge(call, who)
    async with rests.turn(call):
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            pass
    return began


async def begun(rests: Rests, who: Caller, times: int, seconds: float = 0.01) -> list[float]:
    """When each of so many answers began that a peer asks for at once."""
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(asked(rests, who, seconds)) for _ in range(times)]
    return sorted(call.result() for call in calls)


async def test_who_asks_without_end_gets_a_fifth_of_the_time() -> None:
    began = await begun(Rests(), ANA, 5)
    assert began[-1] - began[0] >= 4 * 0.01 * (1 + REST)


async def test_another_peer_and_the_owner_do_not_wait_for_it() -> None:
    rests = Rests()
    flood = asyncio.create_task(begun(rests, ANA, 3))
    await asyncio.sleep(0)
    others = [*await begun(rests, BO, 1), *await begun(rests, Owner(), 3)]
    assert max(others) < (await flood)[1]


async def test_who_asks_now_and_then_never_waits() -> None:
    now = 0.0

    def elapsed() -> float:
        return now

    rests, call = Rests(elapsed), cast("Any", object())
    judge(call, ANA)
    for _ in range(20):
        async with asyncio.timeout(1), rests.turn(call):
            now += 1.0
        now += min(REST, LONGEST_REST_SECONDS)


async def test_what_goes_on_from_an_answer_rests_later_and_not_for_ever() -> None:
    now = 0.0

    def elapsed() -> float:
        return now

    rests, call = Rests(elapsed), cast("Any", object())
    judge(call, ANA)
    for _ in range(2):
        async with asyncio.timeout(1), rests.turn(call, further=True):
            now += LONGEST_REST_SECONDS / REST
    for further in (True, False):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), rests.turn(call, further=further):
                pytest.fail("what was lent is not given back")
