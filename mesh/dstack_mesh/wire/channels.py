"""One channel for each peer, dialled by identity: the address is a hint, TLS proves who answers.

Needs no cryptography: gRPC reads the PEM files itself.
"""

import asyncio
import socket as sockets
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import grpc

from dstack_mesh.card import PROTOCOL
from dstack_mesh.faults import Forbidden
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.trust.membership import Membership
from dstack_mesh.trust.roster.book import read_picture
from dstack_mesh.trust.roster.picture import Belonging, Picture, empty
from dstack_mesh.wire.keepalive import KEEPALIVE
from dstack_mesh.wire.ownership import said_by, secret_of
from dstack_mesh.wire.protocol import said_of

OPTIONS: list[tuple[str, int | str]] = [
    *KEEPALIVE,
    ("grpc.primary_user_agent", said_of(PROTOCOL)),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Also bounds how long one attempt to connect may take; the default is 20 s.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Peers are on this network; an http_proxy of the environment is not for them.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
]

ANY_MEMBER = "mesh"
"""Name that every member's certificate carries, for the first contact."""


@frozen
class _Key:
    target: str
    name: str


def _name(peer_id: PeerId | None) -> str:
    return ANY_MEMBER if peer_id is None else f"{peer_id}.mesh"


class Channels:
    """The channels of one process. Cheap until used; one connection for each peer and address.

    Use from one event loop. `close` them all at the end. Who was revoked, or left, is not dialled.

    Args:
        home: Whose key and mesh.
        picture: The roster as it is known now; by default as the home had it at the first dial.
        options: Of each channel.
    """

    def __init__(
        self,
        home: Home,
        picture: Callable[[], Picture] | None = None,
        options: Sequence[tuple[str, int | str]] = OPTIONS,
    ) -> None:
        self._home = home
        self._picture = picture or _picture_of(home)
        self._options = options
        self._apart: list[Channels] = []
        self._open: dict[_Key, grpc.aio.Channel] = {}
        self._retired: list[tuple[_Key, grpc.aio.Channel]] = []
        self._credentials: grpc.ChannelCredentials | None = None

    def apart(self) -> "Channels":
        """Others that share no connection, and no wait before another try, with these; they are
        shut, renewed and closed with these."""
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        made = Channels(self._home, self._picture, options)
        self._apart.append(made)
        return made

    def to_peer(self, peer_id: PeerId, address: Address) -> grpc.aio.Channel:
        """A channel that only the named peer can answer.

        Raises:
            Refused: This home is in no mesh.
            Forbidden: The peer is a member no more, or the address is another home's socket, where
                nobody proves who it is.
        """
        if address == f"unix:{self._home.agent_socket}":
            return self.to_local(self._home.agent_socket)
        if address.startswith("unix:"):
            raise Forbidden("A socket of another home proves no peer.", address)
        if self._picture().belonging(peer_id) not in (Belonging.MEMBER, None):
            raise Forbidden(
                "That peer is a member no more.",
                f"The mesh's roster says so of {peer_id}.",
                "See `dstack mesh members`.",
                code="revoked",
            )
        return self._secure(address, _name(peer_id))

    def to_unknown(self, address: Address) -> grpc.aio.Channel:
        """A channel that any member of our mesh can answer, to ask who it is."""
        return self._secure(address, _name(None))

    def to_local(self, socket: Path) -> grpc.aio.Channel:
        """A channel to the agent of a home on this machine, over its Unix socket."""
        key = _Key(f"unix:{socket}", "")
        if key not in self._open:
            local = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
            said = said_of(PROTOCOL) + said_by(secret_of(socket))
            options = [*OPTIONS, ("grpc.primary_user_agent", said)]
            self._open[key] = grpc.aio.secure_channel(key.target, local, options=options)
        return self._open[key]

    async def drop(self, address: Address, peer_id: PeerId | None) -> None:
        """Closes the channel to a peer at an address, or to whoever is there, if there is one."""
        channel = self._open.pop(_Key(address, _name(peer_id)), None)
        if channel is not None:
            await channel.close()

    async def shut(self, peers: Collection[PeerId]) -> None:
        """Closes the channels to these peers; calls in flight are cancelled."""
        names = set(map(_name, peers))
        shut = [one for one in [*self._open.items(), *self._retired] if one[0].name in names]
        self._open = {key: one for key, one in self._open.items() if key.name not in names}
        self._retired = [one for one in self._retired if one[0].name not in names]
        await asyncio.gather(*(channel.close() for _, channel in shut))
        for one in self._apart:
            await one.shut(peers)

    def renew(self) -> None:
        """Reads the certificate again for what is dialled from now on.

        Open channels go on, and are closed with the others: the old certificate holds for weeks.
        """
        self._retired.extend(one for one in self._open.items() if one[0].name)
        self._open = {key: one for key, one in self._open.items() if not key.name}
        self._credentials = None
        for one in self._apart:
            one.renew()

    async def close(self) -> None:
        """Closes everything; calls in flight are cancelled."""
        channels = [*self._open.values(), *(channel for _, channel in self._retired)]
        self._open.clear()
        self._retired.clear()
        await asyncio.gather(*(channel.close() for channel in channels))
        for one in self._apart:
            await one.close()

    def _secure(self, address: str, name: str) -> grpc.aio.Channel:
        key = _Key(address, name)
        if key not in self._open:
            options = [*self._options, ("grpc.ssl_target_name_override", name)]
            target = _numeric(address)
            self._open[key] = grpc.aio.secure_channel(target, self._member(), options=options)
        return self._open[key]

    def _member(self) -> grpc.ChannelCredentials:
        if self._credentials is None:
            membership = Membership.require(self._home)
            membership.check_valid(datetime.now(UTC))
            self._credentials = grpc.ssl_channel_credentials(
                root_certificates=membership.root_path.read_bytes(),
                private_key=membership.key_path.read_bytes(),
                certificate_chain=membership.certificate_path.read_bytes(),
            )
        return self._credentials


def _numeric(address: str) -> str:
    """The address as gRPC dials it without a resolver: 7 % less work for a new channel."""
    try:
        sockets.inet_pton(sockets.AF_INET, address.rpartition(":")[0])
    except OSError:  # a name, or an address of IPv6
        return address
    return f"ipv4:{address}"


def _picture_of(home: Home) -> Callable[[], Picture]:
    """The roster of a home, read when it is first asked for."""

    @cache
    def read() -> Picture:
        membership = Membership.load(home)
        return read_picture(home, membership.mesh_id) if membership else empty(MeshId(""))

    return read
