"""What Ctrl-C means, decided from when it was pressed."""

from enum import Enum, auto

AGAIN_SECONDS = 2.0
"""Presses this close together mean more than one alone."""


class Wish(Enum):
    """What somebody who interrupts wants."""

    CANCEL = auto()
    DETACH = auto()
    STOP = auto()
    ABORT = auto()


class Interrupts:
    """Counts presses. On a terminal: detach, then stop, then abort; elsewhere: stop, then abort.

    Before the run was accepted the first one cancels.
    """

    def __init__(self, on_terminal: bool) -> None:
        self._wishes = (
            (Wish.DETACH, Wish.STOP, Wish.ABORT) if on_terminal else (Wish.STOP, Wish.ABORT)
        )
        self._presses = 0
        self._last = float("-inf")

    def pressed(self, now: float, accepted: bool) -> Wish:
        """What this press means; `now` in seconds of any steady clock."""
        if not accepted:
            return Wish.CANCEL
        soon = now - self._last <= AGAIN_SECONDS
        self._last = now
        if self._presses and not soon and self._wishes[0] is Wish.DETACH:
            self._presses = 0
        wish = self._wishes[min(self._presses, len(self._wishes) - 1)]
        self._presses += 1
        return wish
