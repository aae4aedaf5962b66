"""Tells whoever started the agent that it is ready, that it lives, and that it stops (sd_notify).

systemd's `Type=notify` and `WatchdogSec=`; the protocol is one datagram of `NAME=value` lines to
the socket that `NOTIFY_SOCKET` names (sd_notify(3)). Where nobody asked for it, nothing is sent.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import MutableMapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Speaks for this process. What it reads is taken out of the environment: jobs do not get it.

    Args:
        environment: Of this process.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        name, every, pid = (environment.pop(variable, "") for variable in VARIABLES)
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        meant = pid in ("", str(os.getpid())) and every.isascii() and every.isdigit()
        self._alive_seconds = int(every) / 2_000_000 if meant else 0.0

    def ready(self, status: str) -> None:
        """It serves; `status` is a line for people."""
        self._say(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """It stops, by its own will or as it was asked to."""
        self._say("STOPPING=1")

    async def run(self) -> None:
        """Says twice in the watchdog's time that the loop turns; returns if nobody listens."""
        while self._address and self._alive_seconds:
            await asyncio.sleep(self._alive_seconds)
            self._say("WATCHDOG=1")

    def _say(self, words: str) -> None:
        if not self._address:
            return
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker,
            contextlib.suppress(OSError),  # who asked may have gone; the agent serves all the same
        ):
            speaker.setblocking(False)
            speaker.sendto(words.encode(), self._address)
