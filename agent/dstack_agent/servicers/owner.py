"""The owner's counter on the wire: reached over her Unix socket and by nobody else."""

from typing import Any

import grpc

from dstack_agent.owner.desk import OwnersDesk
from dstack_agent.wire.owner import holding_to_wire, rules_to_wire, until_of
from dstack_mesh.v1 import owner_pb2 as pb
from dstack_mesh.v1 import owner_pb2_grpc as rpc

Context = grpc.aio.ServicerContext[Any, Any]


class OwnerServicer(rpc.OwnerServiceServicer):
    """OwnerService of an agent."""

    def __init__(self, desk: OwnersDesk) -> None:
        self._desk = desk

    async def Pause(self, request: pb.PauseRequest, context: Context) -> pb.PauseResponse:
        holding, asked = await self._desk.pause(until_of(request), request.now)
        return pb.PauseResponse(holding=holding_to_wire(holding), asked=asked)

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        return pb.ResumeResponse(holding=holding_to_wire(await self._desk.resume()))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        return pb.DrainResponse(holding=holding_to_wire(await self._desk.drain()))

    async def Show(self, request: pb.ShowRequest, context: Context) -> pb.ShowResponse:
        holding = holding_to_wire(await self._desk.holding())
        return pb.ShowResponse(holding=holding, policy=rules_to_wire(self._desk.rules()))
