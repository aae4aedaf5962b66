"""Every method that there is, from the descriptors, and one call of each with nothing in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import dstack_mesh.v1


def _generated() -> list[Any]:
    """The generated modules of our protos."""
    found = iter_modules(dstack_mesh.v1.__path__, "dstack_mesh.v1.")
    return [import_module(each.name) for each in found if each.name.endswith("_pb2")]


MODULES: list[Any] = [*_generated(), health_pb2, reflection_pb2]
METHODS: dict[str, Any] = {
    f"/{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Descriptors by full name."""

WITHIN_SECONDS = 5.0


def service_of(method: str) -> str:
    """The service of a method without its package: "RunService"."""
    return method.split("/")[1].rpartition(".")[2]


def short(name: str) -> str:
    """A method without its package: "RunService/List"."""
    return f"{service_of(name)}/{name.rpartition('/')[2]}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: a status, and the code of a MeshError if one was raised."""

    status: grpc.StatusCode
    code: str = ""
    words: str = ""

    @property
    def outcome(self) -> str:
        """`passed` the guard, or what it was refused with."""
        match self.status:
            case grpc.StatusCode.UNAVAILABLE if not self.code:
                return "no handshake"
            case grpc.StatusCode.UNIMPLEMENTED:
                return "not served"
            case grpc.StatusCode.PERMISSION_DENIED:
                return self.code or "forbidden"
            case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN:
                return f"broken: {self.words}"
            case _:
                return "passed"


async def call(channel: Any, name: str) -> Answer:
    """Calls a method with an empty message, or with a stream of none."""
    method = METHODS[name]
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    make: Callable[[str], Any] = kinds[method.client_streaming, method.server_streaming]
    begun = make(name)(*([] if method.client_streaming else [b""]), timeout=WITHIN_SECONDS)
    try:
        if method.client_streaming:
            with suppress(Exception):  # whoever is not let in cannot end its stream either
                await begun.done_writing()
        if method.server_streaming:
            # Some streams have no end; the first message is an answer.
            aio: Any = grpc.aio
            if await begun.read() is aio.EOF:
                return await _ending(begun)
            begun.cancel()
            return Answer(grpc.StatusCode.OK)
        await begun
    except grpc.aio.AioRpcError as failed:
        metadata: Any = failed.trailing_metadata() or ()
        sent: dict[str, Any] = dict(metadata)
        code: Any = sent.get("code-bin", b"fault" if "fault" in sent else b"")
        return Answer(failed.code(), code.decode(), failed.details() or "")
    return Answer(grpc.StatusCode.OK)


async def _ending(begun: Any) -> Answer:
    code = await begun.code()
    metadata: Any = await begun.trailing_metadata() or ()
    sent: dict[str, Any] = dict(metadata)
    return Answer(code, sent.get("code-bin", b"").decode(), await begun.details() or "")


class Recorder:
    """Serves every method and remembers which were reached."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def add_to(self, server: grpc.aio.Server) -> None:
        """Call it before the server starts."""
        services: dict[str, dict[str, Any]] = {}
        for name, method in METHODS.items():
            _, service, short_name = name.split("/")
            services.setdefault(service, {})[short_name] = self._handler(name, method)
        for service, handlers in services.items():
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )

    def _handler(self, name: str, method: Any) -> Any:
        async def one(request: object, context: object) -> bytes:
            self.reached.append(name)
            return b""

        async def several(request: object, context: object) -> AsyncIterator[bytes]:
            self.reached.append(name)
            yield b""

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        return make(several if method.server_streaming else one)
