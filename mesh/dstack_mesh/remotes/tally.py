"""How far a transfer is: counted by the threads that carry it, read by whoever shows it."""

import threading
from dataclasses import dataclass, field


class GivenUp(Exception):
    """Whoever wanted the transfer does not want it any more."""


@dataclass(slots=True)
class Tally:
    """Bytes of one or several transfers. Thread-safe.

    Attributes:
        total_bytes: Of all trees that were looked at so far.
        there_bytes: How much of it was where it should go already.
        moved_bytes: How much has moved.
        files: In those trees.
        looking: Whether more may be found that has to move.
    """

    total_bytes: int = 0
    there_bytes: int = 0
    moved_bytes: int = 0
    files: int = 0
    looking: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def found(self, total_bytes: int, there_bytes: int, files: int = 0) -> None:
        """Counts a tree before it moves."""
        with self._lock:
            self.files += files
            self.total_bytes += total_bytes
            self.there_bytes += there_bytes

    def moved(self, count: int) -> None:
        """Counts bytes that moved. Raises GivenUp once `give_up` was called."""
        self.check()
        with self._lock:
            self.moved_bytes += count

    def give_up(self) -> None:
        """Has the transfer end at the next step."""
        self._stopped.set()

    def check(self) -> None:
        """Raises GivenUp if the transfer should end."""
        if self._stopped.is_set():
            raise GivenUp
