"""Who bids and awards for somebody else, and under whose name."""

from dataclasses import replace
from pathlib import Path

import pytest

from dstack_mesh.faults import Busy, Forbidden
from dstack_mesh.ids import HoldId
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.fit import Policy
from dstack_scheduler.verdict import Never, Now
from support.bidding import ANA, BO, HERE, MEG, ONE, lab
from support.machines import SetClock, spec


async def test_a_runner_that_drives_for_somebody_takes_over_only_their_runs(tmp_path: Path) -> None:
    """Else whoever hands a run of others to a runner would have it fence their driver out."""
    for_meg, for_ana = replace(BO, behind=MEG), replace(BO, behind=ANA)
    job = spec(ONE, code=HERE)
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, ANA)
        for act in (
            lambda: here.desk.reserve(ONE, 99, for_meg),
            lambda: here.desk.reserve(replace(ONE, key=replace(ONE.key, job=7)), 99, for_meg),
            lambda: here.desk.commit(hold.hold_id, 99, job, {}, for_meg),
        ):
            with pytest.raises(Forbidden) as refused:
                await act()
            assert refused.value.code == "not-your-run"
        assert await here.desk.reserve(ONE, 1, ANA) == hold
        assert await here.desk.reserve(ONE, 2, for_ana) == hold
        await here.desk.commit(hold.hold_id, 2, job, {}, for_ana)
        assert len(here.agent.accepted) == 1


async def test_whoever_a_job_was_given_for_goes_on_with_its_run(tmp_path: Path) -> None:
    theirs = replace(ONE, key=replace(ONE.key, attempt=2))
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, replace(BO, behind=ANA))
        await here.desk.release(hold.hold_id)
        hold = await here.desk.reserve(ONE, 1, replace(BO, behind=ANA))
        await here.desk.commit(hold.hold_id, 1, spec(ONE, code=HERE), {}, replace(BO, behind=ANA))
        with pytest.raises(Forbidden):
            await here.desk.reserve(theirs, 2, MEG)
        with pytest.raises(Busy):  # one card, and it has it
            await here.desk.reserve(theirs, 2, ANA)


async def test_what_is_lent_to_one_is_not_lent_to_whom_they_drive_for(tmp_path: Path) -> None:
    async with lab(tmp_path, SetClock(), Policy(who=("role:runner", "ana-laptop"))) as here:
        assert isinstance((await here.desk.ask(ONE, BO)).verdict, Now)
        assert isinstance((await here.desk.ask(ONE, replace(BO, behind=ANA))).verdict, Now)
        verdict = (await here.desk.ask(ONE, replace(BO, behind=MEG))).verdict
        assert isinstance(verdict, Never)
        assert "is not lent to meg-laptop" in verdict.reasons[0].message


async def test_nobody_is_first_under_the_id_of_another_s_run(tmp_path: Path) -> None:
    """Ids are made by whoever submits: the first to use one may be somebody who read it."""
    for_meg = replace(BO, behind=MEG)
    job = spec(ONE, code=HERE)
    async with lab(tmp_path, SetClock()) as here:
        for squatter in (MEG, for_meg):
            with pytest.raises(Forbidden) as refused:
                await here.desk.reserve(ONE, 99, squatter)
            assert refused.value.code == "not-your-run"
            with pytest.raises(Forbidden):
                await here.desk.commit(HoldId("any"), 99, job, {}, squatter)
        hold = await here.desk.reserve(ONE, 1, ANA)
        await here.desk.commit(hold.hold_id, 1, job, {}, ANA)
        assert len(here.agent.accepted) == 1


@pytest.mark.parametrize("who", [OWNER, BO, replace(BO, behind=ANA)])
async def test_owners_drivers_and_who_drives_for_its_submitter_take_a_run_up(
    tmp_path: Path, who: Asker
) -> None:
    async with lab(tmp_path, SetClock()) as here:
        hold = await here.desk.reserve(ONE, 1, who)
        await here.desk.commit(hold.hold_id, 1, spec(ONE, code=HERE), {}, who)
        assert len(here.agent.accepted) == 1
