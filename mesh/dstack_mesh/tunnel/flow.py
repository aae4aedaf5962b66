"""The credits of one connection, as one side of it counts them.

A side may send what it was granted. What it receives stays in memory until it was written on, so it
grants no more than a window of it; credit goes back in halves of a window, so that small pieces do
not each cost a frame.
"""

from dataclasses import dataclass

from dstack_mesh.faults import Invalid

WINDOW_BYTES = 256 * 1024
"""What one side may hold of the other's at most, for each connection and way. More would cost
memory; less would hold up a far machine, which gets a window for each round trip."""

_HALF = WINDOW_BYTES // 2


@dataclass(slots=True)
class Flow:
    """Both ways of a connection.

    Attributes:
        may_send: Bytes that may be sent now.
        ended: This side sends no more.
        heard_end: The other side sends no more.
    """

    may_send: int = WINDOW_BYTES
    ended: bool = False
    heard_end: bool = False
    _granted: int = WINDOW_BYTES
    _written: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more goes either way."""
        return self.ended and self.heard_end

    def send(self, count: int) -> None:
        """So many bytes are sent."""
        assert count <= self.may_send
        self.may_send -= count

    def receive(self, count: int) -> None:
        """So many bytes came. Raises Invalid if they were not granted."""
        if self.heard_end or count > self._granted:
            raise Invalid("A connection sends what it may not.", f"{count:,} bytes.", code="credit")
        self._granted -= count

    def write(self, count: int) -> int:
        """So many bytes were written on; returns the credit to grant now, 0 for later."""
        self._written += count
        if self._written < _HALF:
            return 0
        credit, self._written = self._written, 0
        self._granted += credit
        return credit

    def granted(self, count: int) -> None:
        """The other side takes so many bytes more. Raises Invalid for more than a window."""
        if not 0 < count <= WINDOW_BYTES - self.may_send:
            raise Invalid(
                "A connection grants what it may not.", f"{count:,} bytes.", code="credit"
            )
        self.may_send += count
