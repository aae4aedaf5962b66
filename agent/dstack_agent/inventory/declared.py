"""Cards that somebody declared for tests. There are no such cards, and everybody is told so."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dstack_mesh.machine import Gpu
from dstack_scheduler.gpus import DeclaredGpu


class DeclaredSource:
    """Simulated cards; the same home and order give the same uuids at every start."""

    def __init__(self, home: Path, declared: Sequence[DeclaredGpu]) -> None:
        each = (card for card in declared for _ in range(card.count))
        self._cards = tuple(
            Gpu(_uuid(home, index), card.name, card.memory_bytes, simulated=True)
            for index, card in enumerate(each)
        )

    def cards(self) -> tuple[Gpu, ...]:
        return self._cards


def _uuid(home: Path, index: int) -> str:
    digest = hashlib.sha256(f"{home.absolute()}\0{index}".encode()).hexdigest()
    parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
    return "SIM-" + "-".join(parts)
