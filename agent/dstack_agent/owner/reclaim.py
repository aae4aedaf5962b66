"""Which borrowers are asked to go because somebody else uses their card. Pure.

A stranger counts once two looks in a row saw the same one on a card: a process that a job has just
started, or that is just ending, can be on a card for one look without being in the job's tree.
"""

from collections.abc import Iterable, Sequence

from dstack_agent.lease import Lease
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import Gpu
from dstack_scheduler.job import JobKey
from dstack_scheduler.phrases import listing


@frozen
class TakeBack:
    """A borrower to ask, and why."""

    key: JobKey
    cause: str


class Reclaim:
    """Remembers what the last look saw and who was asked.

    Args:
        lender: What people call the machine.
    """

    def __init__(self, lender: str) -> None:
        self._lender = lender
        self._before: dict[str, str] = {}
        self._asked: set[JobKey] = set()

    def look(self, cards: Sequence[Gpu], borrowed: Iterable[Lease]) -> list[TakeBack]:
        """Whom to ask now; each borrower once.

        Args:
            cards: Their holders are strangers.
            borrowed: Leases of jobs that are not the owner's.
        """
        leases = list(borrowed)
        seen = {gpu.uuid: gpu.holder for gpu in cards if gpu.holder}
        settled = {uuid for uuid, holder in seen.items() if self._before.get(uuid) == holder}
        self._before = seen
        self._asked &= {lease.key for lease in leases}
        asked: list[TakeBack] = []
        for lease in leases:
            lost = [gpu for gpu in cards if gpu.uuid in lease.gpu_uuids and gpu.uuid in settled]
            if lost and lease.key not in self._asked:
                self._asked.add(lease.key)
                asked.append(TakeBack(lease.key, self._cause(cards, lost)))
        return asked

    def _cause(self, cards: Sequence[Gpu], lost: Sequence[Gpu]) -> str:
        numbers = [str(cards.index(gpu)) for gpu in lost]
        what = f"GPU {numbers[0]}" if len(numbers) == 1 else f"GPUs {listing(numbers)}"
        who = listing(gpu.holder for gpu in lost)
        return f"The owner of {self._lender} took {what} back: {who} uses it."
