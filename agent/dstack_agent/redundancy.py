"""Decides which copies an agent makes, so that what a job kept is on two agents. Pure.

Every agent looks at the same records and the same members, and each copies for itself alone: nobody
is told to. What has too few copies is ranked among the agents that could take it, by a hash that
all of them compute alike. The first ones act at once; the one behind takes over if nothing has come
of it after a turn, and so on. Views that differ for a moment cost a copy too many, never one too
few.

A holder that is silent counts for a grace, and is called once more before anybody acts (the rule of
SWIM's last call). One that leaves counts no more and still gives: it hands over first.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.job import JobKey, RunRecord

PROMISED = 2
"""Copies of what a job kept, where so many agents are there."""


class Presence(Enum):
    """How an agent counts."""

    HERE = auto()
    LEAVING = auto()
    """It answers and will not for long: it is drained."""
    SILENT = auto()


@frozen
class Mate:
    """An agent as far as copies are concerned.

    Attributes:
        room_bytes: What it would take of others.
    """

    presence: Presence
    room_bytes: int = 0


NOBODY = Mate(Presence.SILENT)


@frozen
class Kept:
    """What an attempt kept, and who has all of it."""

    key: JobKey
    digests: tuple[Digest, ...]
    size_bytes: int
    holders: frozenset[PeerId]


@frozen
class Copy:
    """An order to ourselves.

    Attributes:
        sources: Who has it and answers.
        doubted: Who has it and is silent: nothing is to be done if one of them answers a call.
    """

    kept: Kept
    sources: tuple[PeerId, ...]
    doubted: tuple[PeerId, ...]


@frozen
class Pace:
    """Seconds.

    Attributes:
        grace: A holder that is silent counts for so long. Shorter: a machine that starts again is
            copied in vain; longer: its last other copy is alone for longer.
        turn: Each agent behind in the ranking waits so much longer than the one before it.
    """

    grace: float = 10.0
    turn: float = 20.0


class Redundancy:
    """One agent's view. Give it the time; it never goes back.

    Attributes:
        waiting: Whether something may have to be done here later although nothing changes.
    """

    def __init__(self, own: PeerId, pace: Pace | None = None) -> None:
        self._own = own
        self._pace = pace or Pace()
        self._silent_since: dict[PeerId, float] = {}
        self._short_since: dict[JobKey, float] = {}
        self.waiting = False

    def heard(self, peer_id: PeerId, now: float) -> None:
        """A silent holder answered a call: it counts for another grace."""
        self._silent_since[peer_id] = now

    def decide(
        self, everything: Iterable[Kept], mates: Mapping[PeerId, Mate], now: float
    ) -> list[Copy]:
        """What this agent copies now, the smallest first."""
        short: dict[JobKey, float] = {}
        silent: dict[PeerId, float] = {}
        orders: list[Copy] = []
        doubts = turns = False
        for kept in everything:
            counted = 0
            for peer in kept.holders:
                presence = mates.get(peer, NOBODY).presence
                if presence is Presence.SILENT:
                    silent[peer] = self._silent_since.get(peer, now)
                    grace = now - silent[peer] < self._pace.grace
                    counted, doubts = counted + grace, doubts or grace
                else:
                    counted += presence is Presence.HERE
            if counted >= PROMISED or not self._can_be_had(kept, mates):
                continue
            short[kept.key] = self._short_since.get(kept.key, now)
            if not _could_take(kept, self._own, mates.get(self._own, NOBODY)):
                continue
            turns = True
            if self._is_our_turn(kept, mates, PROMISED - counted, now - short[kept.key]):
                orders.append(_order(kept, mates))
        self._short_since, self._silent_since = short, silent
        self.waiting = turns or doubts
        return sorted(orders, key=lambda order: (order.kept.size_bytes, order.kept.key))

    def _can_be_had(self, kept: Kept, mates: Mapping[PeerId, Mate]) -> bool:
        present = (mates.get(peer, NOBODY).presence for peer in kept.holders)
        return any(presence is not Presence.SILENT for presence in present)

    def _is_our_turn(
        self, kept: Kept, mates: Mapping[PeerId, Mate], lacking: int, for_seconds: float
    ) -> bool:
        behind = max(0, ranking(kept, mates).index(self._own) - lacking + 1)
        return for_seconds >= behind * self._pace.turn


def ranking(kept: Kept, mates: Mapping[PeerId, Mate]) -> list[PeerId]:
    """Who could take a copy, in the order in which they act; the same for all who see the same."""
    could = (peer for peer, mate in mates.items() if _could_take(kept, peer, mate))
    what = f"{kept.key.run_id}/{kept.key.job}/{kept.key.attempt}"
    return sorted(could, key=lambda peer: digest_of(f"{what} {peer}".encode()))


def _could_take(kept: Kept, peer: PeerId, mate: Mate) -> bool:
    return (
        mate.presence is Presence.HERE
        and peer not in kept.holders
        and mate.room_bytes >= kept.size_bytes
    )


def kept_of(runs: Iterable[RunRecord], copies: Mapping[JobKey, set[PeerId]]) -> list[Kept]:
    """What jobs that ended kept for good."""
    found: list[Kept] = []
    for job in (job for run in runs for job in run.jobs):
        whole = [artifact for artifact in job.artifacts if artifact.complete]
        if not whole or not job.state.state.ended:
            continue
        own = {job.agent_id} if job.agent_id is not None else set[PeerId]()
        told = {copy.peer_id for copy in job.copies}
        found.append(
            Kept(
                key=job.key,
                digests=tuple(dict.fromkeys(artifact.digest for artifact in whole)),
                size_bytes=sum(artifact.size_bytes for artifact in whole),
                holders=frozenset(own | told | copies.get(job.key, set())),
            )
        )
    return found


def _order(kept: Kept, mates: Mapping[PeerId, Mate]) -> Copy:
    def among(presences: Sequence[Presence]) -> tuple[PeerId, ...]:
        return tuple(
            peer for peer in sorted(kept.holders) if mates.get(peer, NOBODY).presence in presences
        )

    return Copy(kept, among((Presence.HERE, Presence.LEAVING)), among((Presence.SILENT,)))
