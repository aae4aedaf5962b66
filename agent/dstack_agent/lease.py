"""What is said at the ledger's counter: claims, awards, leases, and a refusal with its reasons."""

from collections.abc import Sequence

from dstack_mesh.faults import Busy, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, HoldId, PeerId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Reason


@frozen
class Claim:
    """What somebody wants to hold.

    Attributes:
        epoch: Of the run's driver.
        peer: Who asks, as TLS proved it; empty for the owner of this home.
        behind: For whom the peer says that it asks; empty for itself.
        owner: Who asks, for people; may be empty.
    """

    key: JobKey
    run_name: RunName
    needs: Needs
    executor: ExecutorKind
    epoch: int
    peer: PeerId
    owner: str = ""
    behind: PeerId = PeerId("")


@frozen
class Award:
    """What somebody wants to turn a hold into; peers as of a claim."""

    hold_id: HoldId
    epoch: int
    key: JobKey
    needs: Needs
    executor: ExecutorKind
    spec_digest: Digest
    owner: str = ""
    peer: PeerId = PeerId("")
    behind: PeerId = PeerId("")


@frozen
class Lease:
    """A job's lease. `ended` is only true of the answer to a commit that was repeated late."""

    key: JobKey
    hold_id: HoldId
    run_name: RunName
    owner: str
    peer: PeerId
    executor: ExecutorKind
    needs: Needs
    epoch: int
    spec_digest: Digest
    behind: PeerId = PeerId("")
    gpu_uuids: tuple[str, ...] = ()
    ended: bool = False

    @property
    def givers(self) -> frozenset[PeerId]:
        """Who gave the job: the peer that asked and, if it asked for somebody, they."""
        return frozenset({self.peer, self.behind} if self.behind else {self.peer})


class NotFree(Busy):
    """What was asked for is not free; `reasons` say who has it."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        first = reasons[0]
        why = " ".join(reason.message for reason in reasons)
        super().__init__("This agent cannot take the job now.", why, first.hint, first.code)
        self.reasons = tuple(reasons)


class Forbade(Refused):
    """This machine never runs what was awarded; `reasons` say why."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        first = reasons[0]
        why = " ".join(reason.message for reason in reasons)
        super().__init__("This agent does not run the job.", why, first.hint, first.code)
        self.reasons = tuple(reasons)
