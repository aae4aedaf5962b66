"""A RunService of which a test uses one method."""

from typing import Any

from dstack_mesh.v1 import run_pb2 as pb
from dstack_mesh.v1 import run_pb2_grpc as rpc


class Unused(rpc.RunServiceServicer):
    """Methods that nobody calls here."""

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        raise AssertionError

    async def Stop(self, request: pb.StopRequest, context: Any) -> pb.StopResponse:
        raise AssertionError

    async def Drive(self, request: pb.DriveRequest, context: Any) -> pb.DriveResponse:
        raise AssertionError

    async def Remove(self, request: pb.RemoveRequest, context: Any) -> pb.RemoveResponse:
        raise AssertionError

    async def Reload(self, request: pb.ReloadRequest, context: Any) -> pb.ReloadResponse:
        raise AssertionError

    async def Tag(self, request: pb.TagRequest, context: Any) -> pb.TagResponse:
        raise AssertionError
