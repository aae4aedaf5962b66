"""What a machine is in its mesh counts beside what its owner says."""

import pytest

from dstack_agent.owner.terms import Terms
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_scheduler.asker import OWNER, Asker
from dstack_scheduler.verdict import Never, Now
from support.machines import machine, question

MEMBER = Asker(PeerId("a" * 32), "submitter")


@pytest.mark.parametrize("role", [Role.READER, Role.SUBMITTER])
def test_a_machine_that_is_no_runner_takes_jobs_of_its_owner_alone(role: Role) -> None:
    terms = Terms(role=role)
    refused = terms.verdict(question(), machine(), (), MEMBER)
    assert isinstance(refused, Never)
    assert [reason.code for reason in refused.reasons] == ["no-runner"]
    assert role.value in refused.reasons[0].message
    assert isinstance(terms.verdict(question(), machine(), (), OWNER), Now)


@pytest.mark.parametrize("role", [Role.RUNNER, Role.ADMIN, Role.ROOT, None])
def test_others_take_jobs_of_members(role: Role | None) -> None:
    assert isinstance(Terms(role=role).verdict(question(), machine(), (), MEMBER), Now)
