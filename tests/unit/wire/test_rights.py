"""Who may call what: total over every method that exists, and no to everything else."""

import itertools
import re
from pathlib import Path

import pytest

from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.caller import Caller, Member, Owner, Stranger
from dstack_mesh.wire.rights import RIGHTS, Audience, check_right, services_for_members
from support.every_method import METHODS as EVERY_METHOD

PROTOS = Path(__file__).parents[3] / "protos" / "dstack_mesh" / "v1"
METHODS = sorted(EVERY_METHOD)
OWNER, STRANGER = Owner(), Stranger()
READER, SUBMITTER, RUNNER, ADMIN, ROOT = (Member(PeerId("p" * 32), role) for role in Role)
CALLERS: list[Caller] = [OWNER, READER, SUBMITTER, RUNNER, ADMIN, ROOT, STRANGER]
ALLOWED: dict[Audience, set[Caller]] = {
    Audience.OWNER: {OWNER},
    Audience.MEMBERS: {OWNER, READER, SUBMITTER, RUNNER, ADMIN, ROOT},
    Audience.SUBMITTERS: {OWNER, SUBMITTER, RUNNER, ADMIN, ROOT},
    Audience.RUNNERS: {OWNER, RUNNER, ADMIN, ROOT},
    Audience.ADMINS: {OWNER, ADMIN, ROOT},
    Audience.ANYBODY: set(CALLERS),
    Audience.NEWCOMERS: {STRANGER},
}


def test_every_method_of_every_descriptor_has_a_row_and_every_row_a_method() -> None:
    assert sorted(RIGHTS) == METHODS


def written(proto: str) -> set[str]:
    """The methods that the text of a proto declares."""
    service, found = "", set[str]()
    for kind, name in re.findall(r"^\s*(service|rpc) (\w+)", proto, re.MULTILINE):
        if kind == "service":
            service = name
        else:
            found.add(f"/dstack_mesh.v1.{service}/{name}")
    return found


def test_every_method_that_is_written_down_is_looked_at() -> None:
    ours = set[str]().union(*(written(path.read_text()) for path in PROTOS.glob("*.proto")))
    assert ours == {method for method in METHODS if "dstack_mesh" in method}


def test_a_method_that_nobody_looks_at_would_be_found() -> None:
    assert written("service Late {\n  // Why.\n  rpc Come(A) returns (B);\n}") == {
        "/dstack_mesh.v1.Late/Come"
    }


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
