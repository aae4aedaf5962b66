"""Puts something around every method of a server: once for each method, not for each call."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

Behaviour = Callable[[Any, Any], Awaitable[Any]]
"""What serves a call: takes its request, or a stream of them, and its context."""

_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Wrapping(grpc.aio.ServerInterceptor, ABC):
    """An interceptor whose work is done before the call begins."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Any, Any]] = {}

    @abstractmethod
    def around(self, method: str, inner: Behaviour) -> Behaviour:
        """What serves a method instead of `inner`, which writes its responses itself."""

    def reading(self, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        """What reads the requests of a method instead."""
        return deserialize

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        made = self._made.get(method)
        if made is not None and made[0] is handler:
            return made[1]
        if handler is None:
            return None
        wrapped = self._wrapped(method, handler)
        self._made[method] = (handler, wrapped)
        return wrapped

    def _wrapped(self, method: str, handler: Any) -> Any:
        inner = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        make = _MAKE[handler.request_streaming, handler.response_streaming]
        served = self.around(method, _writing(inner))
        return make(served, self.reading(handler.request_deserializer), handler.response_serializer)


def _writing(inner: Callable[[Any, Any], Any]) -> Behaviour:
    """Serves a method that yields its responses as one that writes them."""
    if not inspect.isasyncgenfunction(inner):
        return inner

    async def write(request: Any, context: Any) -> None:
        async with aclosing(inner(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write
