"""A place that is dialled again and again: an agent, or an address that may be one. Pure."""

from dataclasses import dataclass
from ipaddress import ip_address

from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address
from dstack_mesh.membership.known import FoundBy, Standing, Target, standing_of

LONGEST_ADDRESS = 64


@frozen
class Policy:
    """How the view behaves; seconds and counts.

    Attributes:
        interval: Between Hellos to an agent that answers, ±20 %. Longer: less traffic, later news.
            Infinity where probes keep watch over those that answered.
        suspect_after: Rounds without answer until an agent is suspect.
        gone_after: Rounds without answer until it is gone.
        gone_seconds: And at least this long since its last answer.
        forget_seconds: A gone agent is forgotten after this time.
        first_retry: Before the second round; doubles up to `last_retry`.
        last_retry: The longest pause between rounds.
        foreign_retry: Before an address that is nobody of ours is tried again.
        give_up_after: Rounds after which an address is dropped that nobody vouches for.
        most_agents: Bound on agents, and on addresses that may be agents.
        most_addresses: Bound on addresses of one agent.
        most_dials: Bound on dials at the same time.
        stranger_dials: Bound on dials in one second to addresses that never answered.
    """

    interval: float = 5.0
    suspect_after: int = 2
    gone_after: int = 4
    gone_seconds: float = 10.0
    forget_seconds: float = 600.0
    first_retry: float = 1.0
    last_retry: float = 30.0
    foreign_retry: float = 300.0
    give_up_after: int = 6
    most_agents: int = 256
    most_addresses: int = 8
    most_dials: int = 32
    stranger_dials: int = 10

    def backoff(self, failures: int, spread: float) -> float:
        """The pause after so many failed rounds; `spread` in [0, 1) keeps peers apart."""
        pause = self.first_retry * 2.0 ** min(failures - 1, 16)
        return min(pause, self.last_retry) * (0.8 + 0.4 * spread)


@dataclass(slots=True, eq=False)
class Place:
    """What is known of it and when to dial it next."""

    found_by: FoundBy
    addresses: list[Address]
    due: float
    heard_at: float
    card: PeerCard | None = None
    answer: HelloAnswer | None = None
    answered_at: float | None = None
    failures: int = 0
    turn: int = 0
    dialing: Target | None = None

    @property
    def address(self) -> Address:
        """The one to dial next."""
        return self.addresses[self.turn % len(self.addresses)]

    def add(self, address: Address, policy: Policy, now: float) -> None:
        """Another address; a place that fails is tried there at once."""
        if address not in self.addresses and len(self.addresses) < policy.most_addresses:
            self.addresses.append(address)
            if self.failures:
                self.due = min(self.due, now)

    def credit(self, found_by: FoundBy) -> None:
        """It was found in another way too: one that needs nobody else's word is shown."""
        if self.found_by == "peer" and found_by in ("mdns", "seed"):
            self.found_by = found_by

    def succeed(self, answer: HelloAnswer, address: Address, policy: Policy) -> None:
        """It answered at this address. What it says of its addresses replaces what was heard."""
        said = [one for one in answer.card.addresses if may_dial(one)]
        self.addresses = list(dict.fromkeys([address, *said]))[: policy.most_addresses]
        self.card, self.answer = answer.card, answer
        self.dialing, self.failures, self.turn = None, 0, 0

    def fail(self, policy: Policy, now: float, spread: float) -> None:
        """It did not answer. The next address is tried at once; after the last one the round is
        over and counts as a failure."""
        self.dialing = None
        self.turn += 1
        if self.turn % len(self.addresses):
            self.due = now
            return
        self.failures += 1
        self.due = now + policy.backoff(self.failures, spread)

    def leave_alone(self, policy: Policy, now: float) -> None:
        """Nobody of ours is there."""
        self.dialing = None
        self.failures += 1
        self.due = now + policy.foreign_retry

    def standing(self, policy: Policy, now: float) -> Standing:
        if self.answer is None or self.answered_at is None:
            return "gone" if self.failures else "suspect"
        silent = now - self.answered_at >= policy.gone_seconds
        if self.failures >= policy.gone_after and silent:
            return "gone"
        if self.failures >= policy.suspect_after:
            return "suspect"
        return standing_of(self.answer.state)

    def quiet_since(self) -> float:
        """The last moment it gave a sign."""
        return self.heard_at if self.answered_at is None else max(self.answered_at, self.heard_at)


def may_dial(address: Address) -> bool:
    """Whether an address that others told us may be dialled: a literal IP of one machine.

    Names are not looked up for strangers; only a person's seeds may be names.
    """
    host, _, port = address.rpartition(":")
    if len(address) > LONGEST_ADDRESS or "%" in host:  # after it, an address may say anything
        return False
    try:
        ip = ip_address(host.strip("[]"))
    except ValueError:
        return False
    if not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        return False
    return not (ip.is_multicast or ip.is_unspecified)
