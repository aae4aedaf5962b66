"""Cards that somebody declared for tests. There are no such cards, and everybody is told so."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dstack_agent.inventory.strangers import Users, nobody, stranger, user_of
from dstack_mesh.machine import Gpu
from dstack_scheduler.gpus import DeclaredGpu


class DeclaredSource:
    """Simulated cards; the same home and order give the same uuids at every start.

    Args:
        home: Whose they are.
        declared: Their models.
        users: Processes that use a card, as a driver would tell.
        our_pids: Those of this agent's jobs; they are not strangers.
    """

    def __init__(
        self,
        home: Path,
        declared: Sequence[DeclaredGpu],
        users: Users = nobody,
        our_pids: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        each = (card for card in declared for _ in range(card.count))
        self._cards = tuple(
            Gpu(_uuid(home, number), card.name, card.memory_bytes, simulated=True, number=number)
            for number, card in enumerate(each)
        )
        self._users = users
        self._our_pids = our_pids

    def cards(self) -> tuple[Gpu, ...]:
        used = {card.uuid: self._users(card.uuid) for card in self._cards}
        ours = self._our_pids() if any(used.values()) else frozenset[int]()
        return tuple(
            replace(card, holder=stranger(used[card.uuid], ours, user_of)) for card in self._cards
        )


def _uuid(home: Path, index: int) -> str:
    digest = hashlib.sha256(f"{home.absolute()}\0{index}".encode()).hexdigest()
    parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
    return "SIM-" + "-".join(parts)
