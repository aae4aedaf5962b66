"""What a survey of the network saw, for the judgements."""

from dataclasses import field

from dstack_cli.checkup.knock import Door
from dstack_mesh.card import HelloAnswer
from dstack_mesh.discovery.ear import Earshot
from dstack_mesh.discovery.interfaces import Interface
from dstack_mesh.discovery.twins import Twin
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import FoundBy
from dstack_mesh.trust.membership import Membership


@frozen
class Hello:
    """An answer to Hello.

    Attributes:
        ahead: Seconds by which the answerer's clock is ahead of ours; None if it did not say.
        took: Seconds until it came.
    """

    answer: HelloAnswer
    ahead: float | None
    took: float


@frozen
class Way:
    """An address that may be an agent's, and what came of going there.

    Attributes:
        found_by: How we know of it.
        heard_on: Interfaces on which it was announced.
        expected: Who is remembered there; None if nobody.
        name: What that one is called.
        trouble: Why Hello was not answered: a stable code and a sentence.
        announces: Whether an agent announces itself there, asked directly; None if not asked.
    """

    address: Address
    found_by: frozenset[FoundBy]
    heard_on: frozenset[str] = frozenset()
    expected: PeerId | None = None
    name: str = ""
    door: Door = Door.OPEN
    hello: Hello | None = None
    code: str = ""
    trouble: str = ""
    announces: bool | None = None

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def peer_id(self) -> PeerId | None:
        return self.hello.answer.card.peer_id if self.hello is not None else self.expected


@frozen
class Sights:
    """Everything that was seen.

    Attributes:
        own: This home's peer id.
        version: Of this software.
        mdns: Multicast may be used.
        local: The answer of this home's own agent; None if none runs.
        local_trouble: Why something listens on the agent's socket and does not answer.
        reached: Whether each agent reaches ours, of those that were asked to call it.
        strangers: Announcements of other meshes that were heard.
        required: The oldest protocol that the mesh allows for new work.
    """

    own: PeerId
    version: str
    membership: Membership | None
    mdns: bool
    interfaces: tuple[Interface, ...]
    earshots: tuple[Earshot, ...]
    ways: tuple[Way, ...]
    local: HelloAnswer | None
    local_trouble: str = ""
    reached: dict[PeerId, bool] = field(default_factory=dict[PeerId, bool], hash=False)
    strangers: int = 0
    twins: tuple[Twin, ...] = ()
    required: int = 0

    @property
    def own_hosts(self) -> frozenset[str]:
        """Addresses of this machine."""
        return frozenset(str(one) for each in self.interfaces for one in each.addresses)

    @property
    def answering(self) -> dict[PeerId, list[Way]]:
        """Ways that lead to agents of others, by the agent, the quickest first."""
        found: dict[PeerId, list[Way]] = {}
        reached = [one for one in self.ways if one.hello is not None and one.peer_id != self.own]
        for way in sorted(reached, key=lambda one: one.hello.took if one.hello else 0.0):
            assert way.peer_id is not None
            found.setdefault(way.peer_id, []).append(way)
        return found

    def named(self, peer_id: PeerId) -> str:
        """What that agent is called."""
        ways = [one for one in self.ways if one.peer_id == peer_id]
        names = [one.hello.answer.card.name for one in ways if one.hello is not None]
        return next(iter(names or [one.name for one in ways if one.name]), peer_id[:8])
