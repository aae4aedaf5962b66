"""How often one peer may make which calls. Its owner's, over the Unix socket, are not counted.

Kinds have buckets of their own, so that a peer that asks too often is still known to be alive,
hears of revocations, and can stop what it started.
"""

import time
from collections.abc import Callable
from enum import Enum

from dstack_mesh.allowances import Allowances, Rate
from dstack_mesh.faults import Busy
from dstack_mesh.wire.caller import Caller, Member


class Kind(Enum):
    """Calls that share a bucket."""

    VITAL = "who is there, who is a member, and health"
    GOSSIP = "what peers tell each other of all others"
    WORK = "asking for resources and awarding jobs"
    BYTES = "streams of logs and of chunks"
    CONTROL = "everything else"


RATES: dict[Kind, Rate] = {
    Kind.VITAL: Rate(per_second=50, burst=200),
    Kind.GOSSIP: Rate(per_second=50, burst=200),
    # A hundred jobs that wait ask once a second each; 200 questions are 5 % of a core.
    Kind.WORK: Rate(per_second=200, burst=400),
    Kind.BYTES: Rate(per_second=200, burst=400),
    Kind.CONTROL: Rate(per_second=50, burst=200),
}
"""For each peer; a flood of one then takes a tenth of a core at most before it is refused."""

_PACKAGE = "/dstack_mesh.v1"

_KINDS: dict[str, Kind] = {
    f"{_PACKAGE}.MembershipService/": Kind.VITAL,
    f"{_PACKAGE}.RosterService/Exchange": Kind.VITAL,
    "/grpc.health.v1.Health/": Kind.VITAL,
    f"{_PACKAGE}.RecordService/": Kind.GOSSIP,
    f"{_PACKAGE}.EvidenceService/Tell": Kind.GOSSIP,
    f"{_PACKAGE}.AuctionService/": Kind.WORK,
    f"{_PACKAGE}.EvidenceService/Vouch": Kind.WORK,
    f"{_PACKAGE}.TransferService/": Kind.BYTES,
    f"{_PACKAGE}.RunService/Attach": Kind.BYTES,
    f"{_PACKAGE}.TunnelService/Carry": Kind.BYTES,
    f"{_PACKAGE}.TunnelService/Exec": Kind.BYTES,
}
"""By a method, or by its whole service."""


def kind_of(method: str) -> Kind:
    """The bucket of a method."""
    service = method[: method.rfind("/") + 1]
    return _KINDS.get(method) or _KINDS.get(service) or Kind.CONTROL


class Pacing:
    """Counts the calls of one server. Use from one event loop.

    Args:
        rates: For each kind of call.
        elapsed: Seconds since some moment; never goes back.
    """

    def __init__(
        self,
        rates: dict[Kind, Rate] = RATES,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rates = rates
        self._allowances = Allowances(rates)
        self._elapsed = elapsed

    def check(self, who: Caller, kind: Kind) -> None:
        """Counts a call. Raises Busy, with the time to wait, if the peer calls too often."""
        if not isinstance(who, Member):
            return
        wait = self._allowances.take(who.peer_id, kind, self._elapsed())
        if wait:
            raise _too_often(wait, kind, self._rates[kind])


def _too_often(wait_seconds: float, kind: Kind, rate: Rate) -> Busy:
    return Busy(
        "This peer calls too often.",
        f"It may make {rate.per_second:g} calls a second for {kind.value}, {rate.burst} at once.",
        f"Call again in {wait_seconds:.2g} s.",
        code="too-often",
        retry_seconds=wait_seconds,
    )
