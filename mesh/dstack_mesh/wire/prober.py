"""Keeps the membership over gRPC: probes with connections of their own."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dstack_mesh.faults import MeshError, TooLate, Unreachable
from dstack_mesh.ids import Address, PeerId
from dstack_mesh.membership.comparing import Question, Reply
from dstack_mesh.membership.rumour import MOST_ADDRESSES, Message
from dstack_mesh.v1 import membership_pb2 as pb
from dstack_mesh.v1 import membership_pb2_grpc as rpc
from dstack_mesh.wire.channels import Channels
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.rumours import (
    message_from_wire,
    message_to_wire,
    question_to_wire,
    reply_from_wire,
)

MOST_CONNECTIONS = 64
"""Peers to whom a connection is kept; of a larger mesh, those that were called last."""

T = TypeVar("T")


class GrpcProber:
    """Calls agents over TLS, by id.

    The address at which a peer answered last is tried alone; where that fails, or nothing is known
    yet, all its addresses at once.

    Args:
        channels: Whose identity we show; connections are not shared with them.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels.apart()
        self._kept: OrderedDict[PeerId, Address] = OrderedDict()
        self._stubs: dict[PeerId, tuple[object, rpc.MembershipServiceAsyncStub]] = {}
        self._late: set[PeerId] = set()

    async def probe(
        self, peer_id: PeerId, addresses: Sequence[Address], message: Message, within: float
    ) -> Message:
        word, rumours = message_to_wire(message)
        request = pb.ProbeRequest(word=word, rumours=rumours)

        async def ask(stub: "rpc.MembershipServiceAsyncStub") -> Message:
            return message_from_wire(await stub.Probe(request, timeout=within), peer_id)

        return await self._somewhere(peer_id, addresses, ask)

    async def probe_for(
        self,
        helper: PeerId,
        helper_addresses: Sequence[Address],
        peer_id: PeerId,
        addresses: Sequence[Address],
        within: float,
    ) -> bool:
        request = pb.ProbeForRequest(target=pb.PeerHint(peer_id=peer_id, addresses=addresses))
        request.within.FromMilliseconds(int(within * 1000))

        async def ask(stub: "rpc.MembershipServiceAsyncStub") -> bool:
            return (await stub.ProbeFor(request, timeout=within)).reach == pb.REACH_ANSWERED

        return await self._somewhere(helper, helper_addresses, ask)

    async def compare(
        self, peer_id: PeerId, addresses: Sequence[Address], question: Question, within: float
    ) -> Reply:
        request = question_to_wire(question)

        async def ask(stub: "rpc.MembershipServiceAsyncStub") -> Reply:
            return reply_from_wire(await stub.Compare(request, timeout=within), peer_id)

        return await self._somewhere(peer_id, addresses, ask)

    async def forget(self, peer_id: PeerId) -> None:
        """Lets go of the connection to a peer, so that the next call makes a new one."""
        self._late.discard(peer_id)
        self._stubs.pop(peer_id, None)
        address = self._kept.pop(peer_id, None)
        if address is not None:
            await self._channels.drop(address, peer_id)

    def reached_at(self, peer_id: PeerId) -> Address | None:
        return self._kept.get(peer_id)

    async def close(self) -> None:
        self._kept.clear()
        self._stubs.clear()
        await self._channels.close()

    async def _somewhere(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        ask: "Callable[[rpc.MembershipServiceAsyncStub], Awaitable[T]]",
    ) -> T:
        kept = self._kept.get(peer_id)
        if kept is None:
            return await self._anywhere(peer_id, addresses, ask)
        try:
            answer = await self._at(peer_id, kept, ask)
        except MeshError as failed:
            # A slow answer may be the machine's; the second one is laid to the connection.
            if not isinstance(failed, TooLate) or peer_id in self._late:
                await self.forget(peer_id)
            else:
                self._late.add(peer_id)
            raise
        self._late.discard(peer_id)
        self._kept.move_to_end(peer_id)
        return answer

    async def _anywhere(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        ask: "Callable[[rpc.MembershipServiceAsyncStub], Awaitable[T]]",
    ) -> T:
        usable = list(dict.fromkeys(addresses))[: MOST_ADDRESSES + 1]
        outcomes: asyncio.Queue[tuple[Address, T | MeshError]] = asyncio.Queue()

        async def try_at(address: Address) -> None:
            try:
                outcomes.put_nowait((address, await self._at(peer_id, address, ask)))
            except MeshError as failed:
                outcomes.put_nowait((address, failed))

        outcome: T | MeshError = Unreachable(f"No address of {peer_id[:8]} can be dialled.")
        async with asyncio.TaskGroup() as tasks:
            trying = [tasks.create_task(try_at(address)) for address in usable]
            for _ in usable:
                address, outcome = await outcomes.get()
                if not isinstance(outcome, MeshError):
                    await self._keep(peer_id, address)
                    break
            for task in trying:
                task.cancel()
        for address in usable:
            if address != self._kept.get(peer_id):
                await self._channels.drop(address, peer_id)
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome

    async def _at(
        self,
        peer_id: PeerId,
        address: Address,
        ask: "Callable[[rpc.MembershipServiceAsyncStub], Awaitable[T]]",
    ) -> T:
        try:
            with translated(address):
                return await ask(self._stub(peer_id, address))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Another call to it failed, and closed the connection under this one.
            raise Unreachable(f"The connection to {address} was given up.") from None

    def _stub(self, peer_id: PeerId, address: Address) -> "rpc.MembershipServiceAsyncStub":
        # Making one costs as much as a call. Asked each time: a peer may have been revoked.
        channel = self._channels.to_peer(peer_id, address)
        kept = self._stubs.get(peer_id)
        if kept is not None and kept[0] is channel:
            return kept[1]
        stub: rpc.MembershipServiceAsyncStub = rpc.MembershipServiceStub(channel)
        if self._kept.get(peer_id) == address:
            self._stubs[peer_id] = (channel, stub)
        return stub

    async def _keep(self, peer_id: PeerId, address: Address) -> None:
        self._kept[peer_id] = address
        while len(self._kept) > MOST_CONNECTIONS:
            oldest, where = self._kept.popitem(last=False)
            self._stubs.pop(oldest, None)
            await self._channels.drop(where, oldest)
