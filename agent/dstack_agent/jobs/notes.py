"""Carries what threads say of jobs, such as how far an image is pulled, into the event loop."""

import asyncio
from collections.abc import Callable
from pathlib import Path


class Notes:
    """Made in the event loop; `say` may be called from any thread. Heard by one listener."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.listener: Callable[[Path, str], None] | None = None

    def say(self, folder: Path, sentence: str) -> None:
        """Tells the listener about the job of a folder. Never blocks."""
        self._loop.call_soon_threadsafe(self._tell, folder, sentence)

    def _tell(self, folder: Path, sentence: str) -> None:
        if self.listener is not None:
            self.listener(folder, sentence)
