"""Who stands before an invitation, by address: nobody takes the room or the tries of others. Pure.

- An address has a share of the conversations that are kept. Where all are taken, a new one takes
  the place of the oldest of whoever has most: whoever has one is pushed out by none that has more.
- It may greet so often, and try so many wrong codes; then it is refused, and others go on.

What comes from one machine may come from several addresses, so the wrong tries of all are bounded
too, by the invitation.
"""

from collections import Counter
from dataclasses import dataclass

from dstack_mesh.faults import Busy, Forbidden
from dstack_mesh.trust.invite import TRIES, Transcript

MOST_CONVERSATIONS = 64
MOST_OF_A_SOURCE = 8
"""Conversations of one address: several newcomers may stand behind one router."""

GREETINGS = 16
"""Greetings of one address at once."""

GREETING_SECONDS = 2.0
"""After each, another one."""

MOST_SOURCES = 1024
"""Addresses whose greetings are counted; of more, the one that greeted longest ago starts anew."""


@dataclass(slots=True)
class _Allowance:
    """Greetings that an address has left, as of a time."""

    left: float
    at: float


class Crowd:
    """The strangers at one invitation. Times are of a steady clock, in seconds."""

    def __init__(self) -> None:
        self._conversations: dict[tuple[str, bytes], Transcript] = {}
        self._allowances: dict[str, _Allowance] = {}
        self._wrong = Counter[str]()

    def check(self, source: str, now: float) -> None:
        """An address greets. Raises Busy if it does so too often, Forbidden if it is shut out."""
        self.check_tries(source)
        allowance = self._allowances.pop(source, None) or _Allowance(GREETINGS, now)
        left = min(GREETINGS, allowance.left + (now - allowance.at) / GREETING_SECONDS)
        self._allowances[source] = _Allowance(max(0.0, left - 1), now)
        while len(self._allowances) > MOST_SOURCES:
            del self._allowances[next(iter(self._allowances))]
        if left < 1:
            raise Busy(
                "Too many greetings came from this address.",
                f"{GREETINGS} may come at once, and one every {GREETING_SECONDS:g} s after them.",
                "Wait a moment, then again.",
                code="too-many-greetings",
            )

    def check_tries(self, source: str) -> None:
        """Raises Forbidden if an address tried too many wrong codes."""
        if self._wrong[source] >= TRIES:
            raise Forbidden(
                "This address tried too many wrong codes.",
                f"{TRIES} were tried; others may go on.",
                "Ask for a new invitation: `dstack mesh invite`.",
                code="too-many-tries",
            )

    def keep(self, source: str, transcript: Transcript) -> None:
        """A conversation begins; an older one may end for it."""
        own = [key for key in self._conversations if key[0] == source]
        if len(own) >= MOST_OF_A_SOURCE:
            del self._conversations[own[0]]
        elif len(self._conversations) >= MOST_CONVERSATIONS:
            del self._conversations[self._oldest_of_the_greediest()]
        self._conversations[source, transcript.newcomer_nonce] = transcript

    def take(self, source: str, nonce: bytes) -> Transcript | None:
        """A conversation is to end now; None if there is none."""
        return self._conversations.pop((source, nonce), None)

    def tried_wrong(self, source: str) -> int:
        """An address tried a wrong code; how many tries it has left."""
        self._wrong[source] += 1
        return TRIES - self._wrong[source]

    def _oldest_of_the_greediest(self) -> tuple[str, bytes]:
        counts = Counter(source for source, _ in self._conversations)
        most = max(counts.values())
        return next(key for key in self._conversations if counts[key[0]] == most)
