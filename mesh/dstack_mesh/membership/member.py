"""A peer as membership keeps it."""

from dataclasses import dataclass, field

from dstack_mesh.ids import Address, PeerId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.known import Standing, standing_of
from dstack_mesh.membership.pace import Pace, suspicion_seconds
from dstack_mesh.membership.rumour import MOST_ACCUSERS, Condition, Rumour


@dataclass(slots=True)
class Suspicion:
    """Why a peer may be gone, and how far we are in finding out.

    Attributes:
        verdict: What it is if nobody answers in the end: dead, or left as somebody said.
        since: When it began, or when it last gave a sign.
        accusers: Who could not reach it.
        slowness: Ours when it began; one once others say that it is gone, who waited as well.
        tries: Last calls made.
        calling: The numbers of those that are out.
        call_at: When the next one is due, once the first was made.
    """

    verdict: Condition
    since: float
    accusers: tuple[PeerId, ...]
    slowness: int
    tries: int = 0
    calling: set[int] = field(default_factory=set[int])
    call_at: float = 0.0

    def due(self, members: int, pace: Pace) -> float:
        """When to call, or after the last call to give up."""
        if self.tries >= pace.calls and self.calling:
            return float("inf")
        if self.tries:
            return self.call_at
        if self.verdict is Condition.LEFT:
            return self.since
        seconds = suspicion_seconds(members, max(len(self.accusers) - 1, 0), pace)
        return self.since + seconds * self.slowness

    def called(self, number: int, again_at: float) -> None:
        """A last call was made; when the next one is due."""
        self.tries += 1
        self.calling.add(number)
        self.call_at = again_at

    def begin_again(self, now: float) -> None:
        """It gave a sign, or we were not there to hear one."""
        self.since, self.tries, self.calling = now, 0, set()

    def join(self, accusers: tuple[PeerId, ...]) -> bool:
        """Further accusers; whether there was a new one."""
        known = tuple(dict.fromkeys((*self.accusers, *accusers)))[:MOST_ACCUSERS]
        grew = len(known) > len(self.accusers)
        self.accusers = known
        return grew


@dataclass(slots=True)
class Member:
    """A peer: what it said of itself, and how it stands.

    Attributes:
        since: When its condition began.
        addresses: Where it says that it is.
        found_at: Where it answered Hello; perhaps a name that a person gave, so not for others.
        roster: Digest of its roster as it said last.
        heard_at: When it last spoke to us itself; None if we know it from others only.
    """

    peer_id: PeerId
    incarnation: int
    state: AgentState
    name: str
    addresses: tuple[Address, ...]
    since: float
    condition: Condition = Condition.ALIVE
    heard_at: float | None = None
    found_at: Address | None = None
    roster: str = ""
    suspicion: Suspicion | None = field(default=None)

    @property
    def living(self) -> bool:
        """Whether it may answer."""
        return self.condition < Condition.DEAD

    @property
    def reachable(self) -> tuple[Address, ...]:
        """Where to call it."""
        found = () if self.found_at is None else (self.found_at,)
        return tuple(dict.fromkeys((*self.addresses, *found)))

    @property
    def standing(self) -> Standing:
        match self.condition:
            case Condition.ALIVE:
                return standing_of(self.state)
            case Condition.SUSPECT:
                return "suspect"
            case Condition.DEAD:
                return "gone"
            case Condition.LEFT:
                return "left"

    def rumour(self) -> Rumour:
        """What we tell others about it."""
        accusers = self.suspicion.accusers if self.suspicion else ()
        condition = self.condition
        if self.suspicion is not None and self.suspicion.verdict is Condition.LEFT:
            condition = Condition.LEFT
        return Rumour(
            self.peer_id,
            self.incarnation,
            condition,
            self.state,
            self.name,
            self.addresses,
            accusers,
        )

    def news_in(self, word: Rumour) -> bool:
        """Whether what it says of itself is new: others may have said otherwise with its number."""
        if word.incarnation != self.incarnation:
            return word.incarnation > self.incarnation
        said = word.state, word.name or self.name, word.addresses or self.addresses
        return said != (self.state, self.name, self.addresses)

    def take(self, word: Rumour) -> None:
        """Believes what it says of itself."""
        self.incarnation, self.state = word.incarnation, word.state
        self.name = word.name or self.name
        self.addresses = word.addresses or self.addresses
