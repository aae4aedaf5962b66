"""How fast membership beats: the numbers of SWIM and Lifeguard, and the formulas between them.

SWIM: Das, Gupta, Motivala, DSN 2002. Lifeguard: Dadgar, Phillips, Currey, arXiv 1707.00788.
"""

from math import ceil, log, log10

from dstack_mesh.frozen import frozen


@frozen
class Pace:
    """Seconds and counts.

    Attributes:
        interval: Between probes. Shorter: deaths are found sooner, more messages.
        patience: Until an answer is missed. Longer than a slow round trip; the second half of an
            interval is for the helpers.
        helpers: Others that are asked to probe who did not answer. Each costs four messages, and
            only then.
        calls: Direct calls, `patience` apart, that must fail before a suspected peer is gone. Each
            is one message from every peer for every death.
        confirmations: Further accusers that bring a suspicion down to its shortest.
        slowest: Bound of local health: we are at most this much slower than usual, plus one.
        stall: Who acts this much later than it meant to has slept itself.
        spread: Each rumour is sent `spread` x log10 of the mesh times by each peer. With 7, one in
            10,000 misses somebody of fifty peers; with 4, one in 20.
        push: Peers that are told urgent news at once. Three reach 94 % of a mesh before the next
            probe of anybody.
        farewell: Peers to whom we say that we go, while we can still be asked whether it is so.
        exchange: Between comparisons of the whole view with somebody.
        retry: Between calls to peers that are gone, if they are many; see `retry_seconds`.
        forget: A peer that is gone or left is shown for so long.
        remember: And for so long no old rumour brings it back.
        most_members: Bound on peers; an agent that is full takes no further ones.
        most_rumours: Bound on rumours of one message: 64 of 900 bytes are below 64 KiB.
        most_page: Bound on peers on one page of a comparison.
    """

    interval: float = 1.0
    patience: float = 0.5
    helpers: int = 3
    calls: int = 3
    confirmations: int = 3
    slowest: int = 8
    stall: float = 2.0
    spread: float = 7.0
    push: int = 3
    farewell: int = 8
    exchange: float = 30.0
    retry: float = 3.0
    forget: float = 600.0
    remember: float = 86_400.0
    most_members: int = 4096
    most_rumours: int = 64
    most_page: int = 64


def suspicion_seconds(members: int, confirmed: int, pace: Pace) -> float:
    """How long a peer stays suspect before it is called for the last time.

    Grows with log10 of the mesh, as the time does in which it can hear of the suspicion and object.
    Falls by a third, with the logarithm of independent confirmations, so that one slow peer does
    not hurry the others.

    Args:
        members: Peers of the mesh, ourselves included.
        confirmed: Accusers beyond the first.
        pace: The numbers.
    """
    shortest = 0.5 * pace.interval * (1 + log10(max(members, 1)))
    wanted = min(pace.confirmations, members - 2)
    if wanted <= 0:
        return shortest
    longest = 1.5 * shortest
    share = log(min(confirmed, wanted) + 1) / log(wanted + 1)
    return longest - (longest - shortest) * share


def transmissions(members: int, pace: Pace) -> int:
    """How often one peer repeats one rumour."""
    return ceil(pace.spread * log10(members + 1))


def retry_seconds(living: int, gone: int, pace: Pace) -> float:
    """Between two calls to peers that are gone.

    All peers together call each that is gone three times in `retry`, however large the mesh is, so
    that halves of a mesh that was cut find each other at once and a lone dead peer costs nobody
    much.
    """
    return pace.retry * max(1.0, living / (3 * max(gone, 1)))
