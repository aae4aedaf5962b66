"""Who asks for resources, and for whom."""

from typing import Any, cast

import pytest

from dstack_agent.records import Given
from dstack_agent.servicers.auction import asker_of
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.caller import Member, Owner, judge
from dstack_scheduler.asker import Asker
from dstack_scheduler.wire.behalf import behalf_to_wire

ANA, MEG = PeerId("a" * 32), PeerId("d" * 32)
FOR_ANA = Asker(ANA, "submitter")


class Saying:
    """A call that names somebody behind it."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return behalf_to_wire(FOR_ANA)


@pytest.mark.parametrize("role", list(Role))
def test_only_who_may_drive_runs_of_others_speaks_for_somebody(role: Role) -> None:
    """Else each submitter became a giver of each run by naming who gave it."""
    call = cast(Any, Saying())
    judge(call, Member(MEG, role))
    heard = role in {Role.RUNNER, Role.ADMIN, Role.ROOT}
    assert asker_of(call) == Asker(MEG, role.value, behind=FOR_ANA if heard else None)


def test_the_agent_of_a_home_may_ask_for_somebody_else() -> None:
    call = cast(Any, Saying())
    judge(call, Owner())
    assert asker_of(call) == FOR_ANA


def test_whom_a_driver_names_is_kept_apart_from_everybody() -> None:
    """From whoever is named too: it is one peer's word of another."""
    runner, ben = PeerId("b" * 32), PeerId("c" * 32)
    people = [Given(runner), Given(ANA), Given(runner, 1, ANA), Given(runner, 1, ben)]
    assert len({one.submitter for one in people}) == 4
