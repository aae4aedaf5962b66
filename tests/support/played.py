"""A mesh whose days are played: certificates are judged at a set time, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from dstack_mesh.card import PeerCard
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Unreachable
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.known import KnownAgent
from dstack_mesh.trust.path import checked_path, issuer_of
from dstack_mesh.trust.renewing import root_of
from dstack_mesh.trust.roster.keeper import Keeper
from dstack_mesh.v1 import roster_pb2 as pb
from dstack_mesh.wire.caller import Member
from dstack_mesh.wire.renewal import Renewal, renew
from dstack_mesh.wire.roster import open_keeper
from dstack_mesh.wire.standings import Standings
from support.meshes import card_of, member


@dataclass(slots=True)
class Played(SystemClock):
    """A clock that is set."""

    start: datetime
    day: float = 0.0

    def now(self) -> datetime:
        return self.start + timedelta(days=self.day)


@dataclass(slots=True)
class World:
    """Homes with agents, of which some run today."""

    clock: Played
    homes: dict[str, Home]
    running: set[str] = field(default_factory=set[str])
    keepers: dict[str, Keeper] = field(default_factory=dict[str, Keeper])

    def __post_init__(self) -> None:
        for name, home in self.homes.items():
            self.keepers[name] = open_keeper(home, member(home), self.clock)
            self.running.add(name)

    async def agree(self) -> None:
        """Everybody who runs knows what one of them knows."""
        for _ in range(2):
            for one in self.running:
                for other in self.running - {one}:
                    missing = self.keepers[other].missing_since(self.keepers[one].picture.heads)
                    await self.keepers[one].absorb([each.signed for each in missing])

    async def look(self, name: str) -> bool:
        """What the agent of a home does every ten minutes; whether it renewed."""
        home, channels = self.homes[name], _Channels(self, name)
        untyped: Any = channels
        others = self._others(name)
        return await Renewal(home, self.keepers[name], untyped, lambda: others, self.clock).look()

    def _others(self, name: str) -> Sequence[KnownAgent]:
        return [
            KnownAgent(_card(self.homes[one], one), (Address(one),), "seed", "alive", None)
            for one in sorted(self.running - {name})
        ]

    def certificates(self, name: str) -> list[x509.Certificate]:
        """What a home shows: its own certificate and those between it and the root's."""
        membership = member(self.homes[name])
        return checked_path(membership.certificate_path.read_bytes(), root_of(membership))

    def holds(self, name: str) -> bool:
        """Whether what a home shows counts today."""
        now = self.clock.now()
        return all(
            one.not_valid_before_utc <= now <= one.not_valid_after_utc
            for one in self.certificates(name)
        )

    async def call(self, caller: str, called: str, request: pb.RenewRequest) -> pb.RenewResponse:
        """Renew, as a server answers it to a caller who shows what its home has today."""
        if called not in self.running or not (self.holds(caller) and self.holds(called)):
            raise Unreachable(f"{called} does not answer {caller}.")
        keeper, home = self.keepers[called], self.homes[called]
        leaf, *above = self.certificates(caller)
        membership = member(self.homes[caller])
        shown = Member(membership.peer_id, membership.role, issuer_of(leaf, above))
        who = Standings(lambda: keeper.picture).judged(shown)
        assert isinstance(who, Member)
        granted = await renew(home, keeper, who, request, self.clock.now())
        return pb.RenewResponse(
            certificate_pem=granted.certificate_pem, issuer_pem=granted.issuer_pem
        )


def _card(home: Home, name: str) -> PeerCard:
    return card_of(home, name)


@dataclass(slots=True)
class _Channels:
    world: World
    caller: str

    def to_peer(self, peer_id: PeerId, address: Address) -> "_Channel":
        return _Channel(self.world, self.caller, str(address))

    def renew(self) -> None:
        """Certificates are read at each call."""


@dataclass(slots=True)
class _Channel:
    """As much of a gRPC channel as a stub needs."""

    world: World
    caller: str
    called: str

    def unary_unary(self, path: str, **_: object) -> Any:
        async def call(request: pb.RenewRequest, **_: object) -> pb.RenewResponse:
            assert path.endswith("/Renew")
            return await self.world.call(self.caller, self.called, request)

        return call
