"""Rumours on their way: the newest about each peer, sent along so often and then no more."""

from collections.abc import Iterable

from dstack_mesh.ids import PeerId
from dstack_mesh.membership.rumour import Rumour

MOST_NEWS = 128
"""Rumours that wait; beyond that the one that was sent most gives way."""


class Gossip:
    """What is worth telling. At most one rumour about each peer."""

    def __init__(self) -> None:
        self._news: dict[PeerId, Rumour] = {}
        self._sent: dict[PeerId, int] = {}

    def spread(self, rumour: Rumour) -> None:
        """Tells this from now on, instead of what was told about that peer."""
        if len(self._news) >= MOST_NEWS and rumour.peer_id not in self._news:
            self.drop(max(self._sent, key=self._sent.__getitem__))
        self._news[rumour.peer_id] = rumour
        self._sent[rumour.peer_id] = 0

    def drop(self, peer_id: PeerId) -> None:
        """Tells nothing about it any more."""
        self._news.pop(peer_id, None)
        self._sent.pop(peer_id, None)

    def take(self, most: int, times: int, untold: Iterable[PeerId] = ()) -> tuple[Rumour, ...]:
        """Rumours for one message, those first that were sent least.

        Args:
            most: Bound on them.
            times: What was sent so often is not news any more.
            untold: Peers about whom nothing is said this time.
        """
        if not self._news:
            return ()
        sent, silent = self._sent, set(untold)
        chosen = [peer_id for peer_id in self._news if peer_id not in silent]
        if len(chosen) > most:
            chosen = sorted(chosen, key=sent.__getitem__)[:most]
        taken = tuple(self._news[peer_id] for peer_id in chosen)
        for peer_id in chosen:
            sent[peer_id] += 1
            if sent[peer_id] >= times:
                self.drop(peer_id)
        return taken
