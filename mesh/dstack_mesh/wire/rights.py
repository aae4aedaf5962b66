"""Who may call what: one row for every method, and no for everything else.

A test enumerates the methods from the descriptors and fails without a row.
"""

from enum import Enum
from typing import assert_never

from dstack_mesh.faults import Forbidden
from dstack_mesh.ids import RunId
from dstack_mesh.run_ids import is_of
from dstack_mesh.trust.membership import Role
from dstack_mesh.wire.caller import Caller, Member, Owner, Stranger


class Audience(Enum):
    """For whom a method is."""

    OWNER = "the owner of this machine, over its Unix socket with the secret of the home"
    MEMBERS = "members of the mesh and the owner"
    SUBMITTERS = "members that may submit or run, and the owner"
    RUNNERS = "members that take jobs, and the owner"
    ADMINS = "admins, the mesh's root, and the owner"
    ANYBODY = "whoever reaches this agent"
    NEWCOMERS = "somebody who was invited and has no certificate yet"


_MEMBERS = frozenset(Role)

ROLES: dict[Audience, frozenset[Role]] = {
    Audience.OWNER: frozenset(),
    Audience.MEMBERS: _MEMBERS,
    # A runner may: it drives runs of others.
    Audience.SUBMITTERS: _MEMBERS - {Role.READER},
    Audience.RUNNERS: frozenset({Role.RUNNER, Role.ADMIN, Role.ROOT}),
    Audience.ADMINS: frozenset({Role.ADMIN, Role.ROOT}),
    Audience.ANYBODY: _MEMBERS,
    Audience.NEWCOMERS: frozenset(),
}
"""Which members belong to an audience."""

STOPPING_ANY = frozenset({Role.RUNNER, Role.ADMIN, Role.ROOT})
"""Roles that may stop runs of others. A runner may: it drives runs of others."""

_PACKAGE = "dstack_mesh.v1"

RIGHTS: dict[str, Audience] = {
    f"/{_PACKAGE}.AdmissionService/Greet": Audience.NEWCOMERS,
    f"/{_PACKAGE}.AdmissionService/Join": Audience.NEWCOMERS,
    f"/{_PACKAGE}.InvitationService/Invite": Audience.OWNER,
    f"/{_PACKAGE}.OwnerService/Pause": Audience.OWNER,
    f"/{_PACKAGE}.OwnerService/Resume": Audience.OWNER,
    f"/{_PACKAGE}.OwnerService/Drain": Audience.OWNER,
    f"/{_PACKAGE}.OwnerService/Show": Audience.OWNER,
    f"/{_PACKAGE}.InvitationService/Watch": Audience.OWNER,
    f"/{_PACKAGE}.MembershipService/Hello": Audience.MEMBERS,
    f"/{_PACKAGE}.MembershipService/Probe": Audience.SUBMITTERS,
    f"/{_PACKAGE}.MembershipService/ProbeFor": Audience.SUBMITTERS,
    f"/{_PACKAGE}.MembershipService/Compare": Audience.SUBMITTERS,
    f"/{_PACKAGE}.RosterService/Exchange": Audience.MEMBERS,
    f"/{_PACKAGE}.RosterService/Renew": Audience.MEMBERS,
    f"/{_PACKAGE}.AuctionService/Ask": Audience.SUBMITTERS,
    f"/{_PACKAGE}.AuctionService/Reserve": Audience.SUBMITTERS,
    f"/{_PACKAGE}.AuctionService/Commit": Audience.SUBMITTERS,
    f"/{_PACKAGE}.AuctionService/Release": Audience.SUBMITTERS,
    f"/{_PACKAGE}.EvidenceService/Vouch": Audience.SUBMITTERS,
    f"/{_PACKAGE}.EvidenceService/Tell": Audience.MEMBERS,
    f"/{_PACKAGE}.RecordService/Agents": Audience.MEMBERS,
    f"/{_PACKAGE}.RecordService/Exchange": Audience.MEMBERS,
    f"/{_PACKAGE}.RecordService/Push": Audience.RUNNERS,
    f"/{_PACKAGE}.RecordService/Tails": Audience.MEMBERS,
    f"/{_PACKAGE}.RunService/Attach": Audience.MEMBERS,
    f"/{_PACKAGE}.RunService/List": Audience.MEMBERS,
    f"/{_PACKAGE}.RunService/Stop": Audience.SUBMITTERS,
    f"/{_PACKAGE}.RunService/Drive": Audience.SUBMITTERS,
    f"/{_PACKAGE}.RunService/Tag": Audience.SUBMITTERS,
    f"/{_PACKAGE}.RunService/Remove": Audience.SUBMITTERS,
    f"/{_PACKAGE}.RunService/Reload": Audience.SUBMITTERS,
    f"/{_PACKAGE}.TransferService/Missing": Audience.MEMBERS,
    f"/{_PACKAGE}.TransferService/Push": Audience.SUBMITTERS,
    f"/{_PACKAGE}.TransferService/Fetch": Audience.MEMBERS,
    f"/{_PACKAGE}.TransferService/Manifest": Audience.MEMBERS,
    f"/{_PACKAGE}.TunnelService/Apps": Audience.SUBMITTERS,
    f"/{_PACKAGE}.TunnelService/Carry": Audience.SUBMITTERS,
    f"/{_PACKAGE}.TunnelService/Exec": Audience.SUBMITTERS,
    f"/{_PACKAGE}.TransferService/Take": Audience.RUNNERS,
    "/grpc.health.v1.Health/Check": Audience.ANYBODY,
    "/grpc.health.v1.Health/List": Audience.ANYBODY,
    "/grpc.health.v1.Health/Watch": Audience.ANYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Audience.MEMBERS,
}


NEW_WORK = frozenset(
    f"/{_PACKAGE}.AuctionService/{method}" for method in ("Ask", "Reserve", "Commit")
)
"""What neither side does whose software is too old for the mesh."""

STOP = f"/{_PACKAGE}.RunService/Stop"
"""Whoever may call it may also say it on a stream."""


def check_right(method: str, caller: Caller) -> None:
    """Raises Forbidden unless the table says that this caller may call this method."""
    audience = RIGHTS.get(method)
    if audience is None or not _belongs(caller, audience):
        raise Forbidden(
            f"{method.rpartition('/')[2]} is not for this caller.",
            f"It is for {audience.value}." if audience else "No rule allows it.",
            code="no-right",
        )


def check_stop(caller: Caller, run_id: RunId) -> None:
    """Raises Forbidden unless this caller may end a run, take it over or remove it."""
    check_right(STOP, caller)
    if not isinstance(caller, Member) or caller.role in STOPPING_ANY:
        return
    if not is_of(run_id, caller.peer_id):
        raise others_run()


def others_run() -> Forbidden:
    """What whoever wants something of somebody else's run is told."""
    return Forbidden(
        "This run is somebody else's.",
        "A run's id says who submitted it, and it is not this caller.",
        "Ask whoever submitted it, or an admin of the mesh.",
        code="not-your-run",
    )


def services_for_members() -> tuple[str, ...]:
    """Full names of the services that an agent serves, for reflection."""
    names = {
        method.split("/")[1]
        for method, audience in RIGHTS.items()
        if audience is not Audience.NEWCOMERS
    }
    return tuple(sorted(names))


def _belongs(caller: Caller, audience: Audience) -> bool:
    match caller:
        case Owner():
            return audience is not Audience.NEWCOMERS
        case Member(role=role):
            return role in ROLES[audience]
        case Stranger():
            return audience in (Audience.NEWCOMERS, Audience.ANYBODY)
        case _:
            assert_never(caller)
