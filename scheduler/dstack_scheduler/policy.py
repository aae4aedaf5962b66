"""What the owner of a machine allows on it. It only narrows: a role that may not, still may not."""

from enum import Enum

from dstack_mesh.frozen import frozen
from dstack_mesh.machine import ExecutorKind, Gpu
from dstack_scheduler.gpus import name_fits
from dstack_scheduler.hours import Window

SHORTEST_UUID = 8
"""Characters from which the beginning of a card's uuid names it."""


class Network(Enum):
    """What containers reach."""

    NONE = "none"
    BRIDGE = "bridge"


class Reclaim(Enum):
    """What becomes of a borrower when somebody else uses his card."""

    ASK = "ask"
    WAIT = "wait"


@frozen
class Lent:
    """Which cards are lent.

    Attributes:
        which: Numbers as the driver counts, uuids or their beginnings, names; None for all.
        most: So many at once; None for no limit.
    """

    which: tuple[str, ...] | None = None
    most: int | None = None

    def of(self, cards: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """Those of the machine's cards that jobs may get."""
        if self.which is None:
            return cards
        return tuple(
            gpu
            for place, gpu in enumerate(cards)
            if any(_names(word, gpu, place) for word in self.which)
        )


ALL_CARDS = Lent()


@frozen
class Policy:
    """What the machine's owner allows. None is no limit, and everything.

    Attributes:
        allow_process: Jobs may run as processes of the host.
        max_jobs: Jobs at once; None for max(4, twice the processors).
        lender: What people call the machine, for messages.
        who: Ids, names, and roles as "role:runner".
        images: Patterns as "pytorch/*" of the images that may run.
        executors: Ways to run a job.
        cards: Which are lent.
        hours: When jobs of others start.
        longest_seconds: So long a job may run.
        cpus: For all jobs together, as the next two.
        memory_bytes: As above.
        disk_bytes: Of jobs' folders and of what is kept.
        network: Of containers.
        mounts: Whether a process may keep and get folders outside its own.
        reclaim: What becomes of a borrower when somebody else uses his card.
        grace_seconds: So long he has to save and go.
    """

    allow_process: bool = True
    max_jobs: int | None = None
    lender: str = "This machine"
    who: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    executors: frozenset[ExecutorKind] | None = None
    cards: Lent = ALL_CARDS
    hours: tuple[Window, ...] | None = None
    longest_seconds: float | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    network: Network = Network.BRIDGE
    mounts: bool = True
    reclaim: Reclaim = Reclaim.WAIT
    grace_seconds: float = 5.0


def _names(word: str, gpu: Gpu, place: int) -> bool:
    if word.isdigit():
        return int(word) == (place if gpu.number is None else gpu.number)
    beginning = len(word) >= SHORTEST_UUID and gpu.uuid.lower().startswith(word.lower())
    return beginning or name_fits(word, gpu.name)
