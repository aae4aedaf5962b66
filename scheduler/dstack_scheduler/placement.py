"""Which of the agents that could start a job gets it, and why.

The order is total and depends only on what was offered, never on who answered first:

1. this machine, if it can run the job;
2. the fewest bytes to fetch, in buckets, so that a few megabytes do not outweigh a better fit;
3. the tightest fit: the fewest cards left free afterwards, so that big jobs keep finding room;
4. the fewest running jobs;
5. the peer's id.
"""

from collections.abc import Iterable, Sequence

from dstack_mesh.card import PeerCard
from dstack_mesh.frozen import frozen
from dstack_scheduler.verdict import Now

BUCKET_BYTES = 64 * 2**20
"""Up to here a fetch costs about nothing on a LAN; each further bucket is four times as wide."""


@frozen
class Offer:
    """An agent that could start the job at once."""

    card: PeerCard
    local: bool
    now: Now
    missing_bytes: int = 0


@frozen
class Wish:
    """What the choice depends on beside the offers.

    Attributes:
        gpus: Cards that the job needs.
        input_bytes: Size of all inputs.
        asked_for: Whether a person named the agent.
        others: Agents that answered, but could not start the job now.
        unheard: Agents that did not answer in time.
    """

    gpus: int = 0
    input_bytes: int = 0
    asked_for: bool = False
    others: int = 0
    unheard: int = 0


def ranked(offers: Iterable[Offer]) -> list[Offer]:
    """The offers, best first."""
    return sorted(offers, key=_rank)


def reason(best: Offer, rest: Sequence[Offer], wish: Wish) -> str:
    """One clause for people that says why the best offer is the best."""
    if wish.asked_for:
        return "you asked for it"
    if best.local:
        return "this machine can run it"
    if not rest:
        return _alone(wish)
    return _compared(best, min(rest, key=_rank), wish)


def size(count: int) -> str:
    """A size as people read it: "1.9 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit has no upper end")


def _rank(offer: Offer) -> tuple[bool, int, int, int, str]:
    return (
        not offer.local,
        _bucket(offer.missing_bytes),
        offer.now.gpus_left,
        offer.now.running,
        offer.card.peer_id,
    )


def _bucket(missing_bytes: int) -> int:
    return ((missing_bytes // BUCKET_BYTES).bit_length() + 1) // 2


def _alone(wish: Wish) -> str:
    if not wish.others:
        return "only agent that answered" if wish.unheard else "the only agent"
    if wish.gpus:
        return (
            "only agent with a free GPU"
            if wish.gpus == 1
            else f"only agent with {wish.gpus} free GPUs"
        )
    return "only agent that can run it now"


def _compared(best: Offer, second: Offer, wish: Wish) -> str:
    if _bucket(best.missing_bytes) < _bucket(second.missing_bytes):
        here = wish.input_bytes - best.missing_bytes
        return (
            f"already has {size(here)} of the inputs" if here > 0 else "has the most of the inputs"
        )
    if best.now.gpus_left < second.now.gpus_left:
        return "its free GPUs fit best"
    if best.now.running < second.now.running:
        return "runs the fewest jobs" if best.now.running else "runs nothing else"
    return "as good as any other"
