"""Knows whether anybody calls: what an agent that leaves when idle must know."""

import time
from typing import Any

from dstack_mesh.wire.wrapping import Behaviour, Wrapping


class Activity(Wrapping):
    """Counts the calls that are open and remembers when the last one ended."""

    def __init__(self) -> None:
        super().__init__()
        self._open = 0
        self._last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nobody has been calling; 0 while somebody is."""
        return 0.0 if self._open else time.monotonic() - self._last

    def around(self, method: str, inner: Behaviour) -> Behaviour:
        async def run(request: Any, context: Any) -> Any:
            self._open += 1
            try:
                return await inner(request, context)
            finally:
                self._open -= 1
                self._last = time.monotonic()

        return run
