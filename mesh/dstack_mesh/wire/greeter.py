"""Calls the roll over gRPC."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from dstack_mesh.card import HelloAnswer, PeerCard
from dstack_mesh.clock import Clock
from dstack_mesh.discovery.seeds import all_seeds
from dstack_mesh.discovery.switch import enabled
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import MeshId
from dstack_mesh.machine import AgentState
from dstack_mesh.membership.greeter import Sources
from dstack_mesh.membership.known import Target
from dstack_mesh.membership.roll import RollCall
from dstack_mesh.own_name import own_name
from dstack_mesh.trust.membership import Membership
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.membership import MembershipClient

if TYPE_CHECKING:
    from dstack_mesh.membership.vigil import Vigil


class GrpcGreeter:
    """Says Hello over the channels of this process.

    Args:
        channels: Kept open between calls.
        card: Who we say we are, as it is at the moment of the call.
    """

    def __init__(self, channels: Channels, card: Callable[[], PeerCard]) -> None:
        self._channels = channels
        self._card = card

    async def hello(self, target: Target, within: float) -> HelloAnswer:
        if target.peer_id is not None or target.address.startswith("unix:"):
            channel = self._channels.to_peer(target.peer_id or self._card().peer_id, target.address)
        else:
            channel = self._channels.to_unknown(target.address)
        return await MembershipClient(channel, target.address).hello(self._card(), within)

    async def forget(self, target: Target) -> None:
        await self._channels.drop(target.address, target.peer_id)


def command_card(home: Home) -> PeerCard:
    """What a command says of itself: a peer of its home that takes no jobs and does not listen."""
    membership = Membership.load(home)
    return PeerCard(
        peer_id=Identity.load_or_make(home).peer_id,
        mesh_id=membership.mesh_id if membership else MeshId(""),
        name=own_name(os.environ),
        addresses=(),
        version="",
        agent=False,
    )


def open_roll_call(
    home: Home,
    channels: Channels,
    environ: Mapping[str, str],
    seeds: Iterable[str] = (),
    card: Callable[[], PeerCard] | None = None,
    port: int | None = None,
    mdns: bool = True,
    vigil: "Vigil | None" = None,
) -> RollCall:
    """The roll of this home's mesh, with seeds and multicast as flags and environment say.

    Args:
        home: Whose mesh.
        channels: To dial by.
        environ: `DSTACK_SEEDS` and `DSTACK_MDNS` are read.
        seeds: Further ones, of flags.
        card: An agent's card, as it is at the moment of a call; a command's by default.
        port: Where an agent listens, to be announced; a command announces nothing.
        mdns: False where a flag turned multicast off.
        vigil: An agent's, of `open_vigil`; a command has none.

    Raises:
        Invalid: A seed is not an address.
    """
    present = card() if card else command_card(home)
    sources = Sources(all_seeds(seeds, environ, home.config), mdns and enabled(environ), port)
    greeter = GrpcGreeter(channels, card or (lambda: present))
    membership = Membership.load(home)
    return RollCall(home, present.peer_id, membership, greeter, sources, vigil=vigil)


def open_vigil(
    channels: Channels, card: Callable[[], PeerCard], state: Callable[[], AgentState], clock: Clock
) -> "Vigil":
    """What keeps watch over the other agents of this home's mesh; `RollCall.run` runs it.

    Args:
        channels: Whose identity we show.
        card: What we say of ourselves, as it is at the moment of a call.
        state: Whether we take jobs.
        clock: Orders everything.
    """
    from dstack_mesh.membership.rumour import MOST_ADDRESSES
    from dstack_mesh.membership.signs import Portrayed
    from dstack_mesh.membership.vigil import Vigil
    from dstack_mesh.wire.prober import GrpcProber

    def portrait() -> Portrayed:
        now = card()
        return Portrayed(now.name, now.addresses[:MOST_ADDRESSES], state(), now.roster)

    return Vigil(card().peer_id, GrpcProber(channels), portrait, clock)
