"""EvidenceService of an agent: takes submitters' signatures, tells what is signed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from dstack_agent.servicers.auction import asker_of
from dstack_agent.servicers.resting import Rests
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId
from dstack_mesh.signing import Signed
from dstack_mesh.v1 import evidence_pb2 as pb
from dstack_mesh.v1 import evidence_pb2_grpc as rpc
from dstack_scheduler.asker import Asker
from dstack_scheduler.evidence import Evidence
from dstack_scheduler.wire import convert, fields
from dstack_scheduler.wire.evidence import evidence_to_wire

MOST_BYTES = 3 << 20
"""Of one answer; a message may have 4 MiB."""


@frozen
class Testimony:
    """What the service speaks for.

    Attributes:
        own: What is signed here of a run, up to this moment.
        elsewhere: What other agents published of it.
        vouch: Keeps a submitter's signature.
    """

    own: Callable[[RunId], Awaitable[Sequence[Evidence]]]
    elsewhere: Callable[[RunId], Sequence[Evidence]]
    vouch: Callable[[RunId, int, Signed, Asker], Awaitable[None]]


class EvidenceServicer(rpc.EvidenceServiceServicer):
    """Serves submitters, and whoever verifies a run."""

    def __init__(self, testimony: Testimony, rests: Rests) -> None:
        self._testimony = testimony
        self._rests = rests

    async def Vouch(
        self, request: pb.VouchRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.VouchResponse:
        run_id, job = fields.run_id(request.run_id), fields.index(request.job)
        signed = convert.signed_from_wire(request.specification)
        await self._testimony.vouch(run_id, job, signed, asker_of(context))
        return pb.VouchResponse()

    async def Tell(
        self, request: pb.TellRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.TellResponse:
        run_id = fields.run_id(request.run_id)
        async with self._rests.turn(context):
            return await self._told(run_id)

    async def _told(self, run_id: RunId) -> pb.TellResponse:
        found = [*await self._testimony.own(run_id), *self._testimony.elsewhere(run_id)]
        response = pb.TellResponse()
        size = 0
        for each in map(evidence_to_wire, found):
            size += each.ByteSize()
            if size > MOST_BYTES:
                response.more = True
                break
            response.attempts.append(each)
        return response
