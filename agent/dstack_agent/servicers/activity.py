"""Knows whether anybody calls: what an agent that leaves when idle must know."""

import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Activity(grpc.aio.ServerInterceptor):
    """Counts the calls that are open and remembers when the last one ended."""

    def __init__(self) -> None:
        self._open = 0
        self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nobody has been calling; 0 while somebody is."""
        return 0.0 if self._open else time.monotonic() - self._last

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        inner = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        make = _MAKE[handler.request_streaming, handler.response_streaming]
        counted = self._counted(inner)
        return make(counted, handler.request_deserializer, handler.response_serializer)

    def _counted(self, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def run(request: Any, context: Any) -> Any:
            self._open += 1
            try:
                if inspect.isasyncgenfunction(inner):
                    async with aclosing(inner(request, context)) as responses:
                        async for response in responses:
                            await context.write(response)
                    return None
                return await inner(request, context)
            finally:
                self._open -= 1
                self._last = time.monotonic()

        return run
