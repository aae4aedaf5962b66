"""Who may call what: total over every method that exists, and no to everything else."""

import itertools
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.v1 import (
    admission_pb2,
    auction_pb2,
    evidence_pb2,
    membership_pb2,
    owner_pb2,
    records_pb2,
    roster_pb2,
    run_pb2,
    transfer_pb2,
)
from dstack_mesh.wire.caller import Caller, Member, Owner, Stranger
from dstack_mesh.wire.rights import RIGHTS, Audience, check_right, services_for_members

MODULES: list[Any] = [
    admission_pb2,
    auction_pb2,
    evidence_pb2,
    membership_pb2,
    owner_pb2,
    records_pb2,
    roster_pb2,
    run_pb2,
    transfer_pb2,
    health_pb2,
    reflection_pb2,
]
METHODS = sorted(
    f"/{service.full_name}/{method.name}"
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
OWNER, STRANGER = Owner(), Stranger()
READER, SUBMITTER, RUNNER, ADMIN, ROOT = (Member(PeerId("p" * 32), role) for role in Role)
CALLERS: list[Caller] = [OWNER, READER, SUBMITTER, RUNNER, ADMIN, ROOT, STRANGER]
ALLOWED: dict[Audience, set[Caller]] = {
    Audience.OWNER: {OWNER},
    Audience.MEMBERS: {OWNER, READER, SUBMITTER, RUNNER, ADMIN, ROOT},
    Audience.SUBMITTERS: {OWNER, SUBMITTER, RUNNER, ADMIN, ROOT},
    Audience.RUNNERS: {OWNER, RUNNER, ADMIN, ROOT},
    Audience.ADMINS: {OWNER, ADMIN, ROOT},
    Audience.NEWCOMERS: {STRANGER},
}


def test_every_method_of_every_descriptor_has_a_row_and_every_row_a_method() -> None:
    assert sorted(RIGHTS) == METHODS


def test_every_proto_of_ours_is_looked_at() -> None:
    from importlib.resources import files

    ours = {path.name for path in files("dstack_mesh.v1").iterdir() if "_pb2_grpc.py" in path.name}
    with_services = {module.__name__.rpartition(".")[2] + "_grpc.py" for module in MODULES}
    assert {name for name in ours if not name.endswith("i")} - with_services == {"job_pb2_grpc.py"}


@pytest.mark.parametrize(("method", "who"), list(itertools.product(METHODS, CALLERS)))
def test_each_caller_may_what_the_table_says_and_nothing_else(method: str, who: Caller) -> None:
    if who in ALLOWED[RIGHTS[method]]:
        check_right(method, who)
    else:
        with pytest.raises(Forbidden):
            check_right(method, who)


@pytest.mark.parametrize("who", CALLERS)
def test_a_method_without_a_row_is_for_nobody(who: Caller) -> None:
    with pytest.raises(Forbidden):
        check_right("/dstack_mesh.v1.MembershipService/Invented", who)


def test_invitations_are_for_the_owner_alone_and_joining_for_newcomers_alone() -> None:
    assert RIGHTS["/dstack_mesh.v1.InvitationService/Invite"] is Audience.OWNER
    assert RIGHTS["/dstack_mesh.v1.AdmissionService/Join"] is Audience.NEWCOMERS
    assert "dstack_mesh.v1.AdmissionService" not in services_for_members()


def test_a_reader_changes_nothing_on_any_machine() -> None:
    readable = {method for method in METHODS if ALLOWED[RIGHTS[method]] >= {READER}}
    ours = {method.split(".v1.")[1] for method in readable if "dstack" in method}
    assert ours == {
        "EvidenceService/Tell",
        "MembershipService/Hello",
        "RecordService/Agents",
        "RecordService/Exchange",
        "RecordService/Tails",
        "RosterService/Exchange",
        "RosterService/Renew",
        "RunService/Attach",
        "RunService/List",
        "TransferService/Fetch",
        "TransferService/Manifest",
        "TransferService/Missing",
    }
