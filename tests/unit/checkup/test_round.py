"""Checks run at the same time, within their time, and are told of while they run."""

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial

from dstack_cli.checkup.finding import Finding, Grade, passed
from dstack_cli.checkup.round import Check, blocking, carry_out_all
from dstack_mesh.faults import Refused


def look(pause: float, name: str = "x") -> Sequence[Finding]:
    time.sleep(pause)
    return [passed(name, "fine")]


async def test_checks_run_at_the_same_time_and_are_told_in_order() -> None:
    names = [f"c{at}" for at in range(8)]
    checks = [Check(name, "machine", blocking(partial(look, 0.3, name))) for name in names]
    began = time.monotonic()
    found = await carry_out_all(checks, print)
    assert time.monotonic() - began < 1.2
    assert [one.check for one in found] == names


async def test_a_check_that_hangs_is_told_and_holds_up_nobody() -> None:
    never = threading.Event()

    def hang() -> Sequence[Finding]:
        never.wait()
        return []

    said: list[str] = []
    checks = [
        Check("disk", "machine", blocking(hang), 1.8),
        Check("x", "gpu", blocking(partial(look, 0))),
    ]
    began = time.monotonic()
    found = await carry_out_all(checks, said.append)
    assert time.monotonic() - began < 3
    never.set()
    assert [(one.check, one.grade, one.topic) for one in found] == [
        ("disk", Grade.FAIL, "machine"),
        ("x", Grade.PASS, "gpu"),
    ]
    assert found[0].cause == "hangs"
    assert said == ["looking at: disk"]


async def test_trouble_of_a_check_is_its_finding() -> None:
    def refuse() -> Sequence[Finding]:
        raise Refused("No.", "Because.", "do it", "no-way")

    def fail() -> Sequence[Finding]:
        raise PermissionError(13, "Permission denied")

    checks = [Check("a", "cloud", blocking(refuse)), Check("b", "cloud", blocking(fail))]
    one, other = await carry_out_all(checks, print)
    assert (one.cause, one.message, one.fix) == ("no-way", "No. Because.", "do it")
    assert other.grade is Grade.FAIL


async def test_neither_trouble_in_a_group_nor_a_bug_hides_what_the_others_found() -> None:
    async def refuse() -> Sequence[Finding]:
        raise Refused("No.", "", "", "no-way")

    async def grouped() -> Sequence[Finding]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refuse())
        return []

    def stumble() -> Sequence[Finding]:
        raise LookupError("where")

    looks = (grouped, blocking(stumble), blocking(partial(look, 0)))
    found = await carry_out_all(
        [Check(f"c{at}", "gpu", one) for at, one in enumerate(looks)], print
    )
    assert [one.cause for one in found] == ["no-way", "broken", ""]
    assert "dstack has a bug: LookupError: where" in found[1].message
