"""How much of what an agent tells others each kind of record may be. Pure.

Others hold so much of one agent and no more (`dstack_mesh.records.replica.BOUNDS`); all shares
together fit into that. What is too much is let go the oldest first, some of it at a time: whoever
was behind fetches everything again then.
"""

from collections.abc import Iterable, Sequence

from dstack_agent.sheets import run_of
from dstack_mesh.frozen import frozen
from dstack_mesh.records.record import KEY_BYTES, KIND_BYTES, Entry

BESIDE_BYTES = KIND_BYTES + KEY_BYTES + 64
"""What a record may have beside its payload."""


@frozen
class Share:
    """The room of one kind.

    Attributes:
        most: Records that are left when some are let go.
        spare: So many above that nothing is let go yet.
        most_bytes: Of all its records; a quarter less is left when some are let go.
    """

    most: int
    spare: int
    most_bytes: int

    def too_much(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those to let go, from the first."""
        size = sum(map(_size, entries))
        if len(entries) <= self.most + self.spare and size <= self.most_bytes:
            return ()
        gone = 0
        while len(entries) - gone > self.most or size > self.most_bytes * 3 // 4:
            size -= _size(entries[gone])
            gone += 1
        return entries[:gone]


RUNS = Share(1_000, 200, 5 << 19)
TAGGED = Share(1_000, 100, 3 << 19)
"""Runs that a tag names: they are needed for as long as the tag."""

TAGS = Share(1_000, 100, 1 << 20)
REMOVALS = Share(230, 30, 1 << 17)
"""For agents that are away: whoever had a removed run and is here has taken it back already."""

LOGS = Share(64, 16, 3 << 18)
EVIDENCES = Share(256, 64, 3 << 19)
"""Attempts whose chains are passed on; of an older one its agent alone can tell."""

COPIES = Share(32, 0, 1 << 19)
"""What is said of copies is one record for many attempts: see `holdings`."""


def runs_too_much(told: Iterable[Entry], tagged: Iterable[str]) -> Sequence[Entry]:
    """Those to let go, each run with all its sheets. `tagged` is read only if there are many."""
    by_age = sorted(told, key=lambda one: one.key)
    if not RUNS.too_much(by_age):
        return ()
    kept = frozenset(tagged)
    return (
        *_whole_runs(RUNS, [one for one in by_age if run_of(one.key) not in kept]),
        *_whole_runs(TAGGED, [one for one in by_age if run_of(one.key) in kept]),
    )


def _whole_runs(share: Share, entries: Sequence[Entry]) -> Sequence[Entry]:
    """What a share lets go, and what else there is of the last run of which something goes."""
    gone = share.too_much(entries)
    last = run_of(gone[-1].key) if gone else ""
    return [one for one in entries if run_of(one.key) <= last]


def _size(entry: Entry) -> int:
    return len(entry.payload) + BESIDE_BYTES
