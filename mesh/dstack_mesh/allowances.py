"""How often each peer may call: a bucket of tokens for each peer and kind of call.

A bucket holds `burst` tokens and fills by `per_second`; a call takes one, or is refused and takes
none. A bucket is kept as the one moment at which it is full again (the "theoretical arrival time"
of the cell rate algorithm, ITU-T I.371), so a full bucket need not be kept at all.
"""

from typing import Generic, TypeVar

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId

MOST_BUCKETS = 8_192
"""Buckets that are not full, of all peers together: under 2 MB. One more, and whoever called the
longest time ago has a full one again. Only peers with a certificate have any."""

K = TypeVar("K")


@frozen
class Rate:
    """Attributes are those of a bucket.

    Attributes:
        per_second: Calls that may go on for ever. Larger lets one peer take more of the processor.
        burst: Calls that may come at once after a rest. Larger lets one peer delay others longer.
    """

    per_second: float
    burst: int


class Allowances(Generic[K]):
    """The buckets of all peers. Time only goes forward.

    Args:
        rates: For each kind of call.
        most: Buckets that are kept.
    """

    def __init__(self, rates: dict[K, Rate], most: int = MOST_BUCKETS) -> None:
        self._steps = {kind: 1.0 / rate.per_second for kind, rate in rates.items()}
        self._leads = {kind: rate.burst / rate.per_second for kind, rate in rates.items()}
        self._most = most
        self._full_at: dict[tuple[PeerId, K], float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, peer: PeerId, kind: K, now: float) -> float:
        """Takes a token; 0.0 if there was one, else the seconds after which there is."""
        key = (peer, kind)
        full_at = max(self._full_at.pop(key, now), now) + self._steps[kind]
        wait = full_at - now - self._leads[kind]
        if wait > _ROUNDING:
            self._full_at[key] = full_at - self._steps[kind]
            return wait
        self._full_at[key] = full_at  # behind all others: it called last
        if len(self._full_at) > self._most:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Forgets full buckets, then those that were used the longest time ago."""
        kept = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        surplus = len(kept) - self._most // 2
        self._full_at = dict(list(kept.items())[max(surplus, 0) :])


_ROUNDING = 1e-9
"""Seconds by which sums of fractions may be off."""
