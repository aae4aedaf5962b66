"""Stands between a client and a service on loopback and makes trouble when it is told to."""

import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = 16 << 10

Pump = Callable[[socket.socket, socket.socket], None]


@dataclass(slots=True)
class TcpProxy:
    """Passes bytes on.

    Attributes:
        port: Where it listens.
        passed: Bytes that went to the service.
        returned: Bytes that came from it.
        cut_after: Once so many went there, every connection is reset and none is taken.
        bytes_per_second: How fast bytes go, each way; 0 is as fast as they come.
        silent: Takes connections and bytes and passes nothing on.
        without: A header that is taken out of every request.
    """

    target: int
    port: int = 0
    passed: int = 0
    returned: int = 0
    cut_after: int | None = None
    bytes_per_second: int = 0
    silent: bool = False
    without: str = ""
    _listener: socket.socket = field(default_factory=socket.socket)
    _open: list[socket.socket] = field(default_factory=list[socket.socket])

    def start(self) -> None:
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._reset()

    @property
    def is_cut(self) -> bool:
        return self.cut_after is not None and self.passed >= self.cut_after

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                client.close()
                continue
            service = socket.create_connection(("127.0.0.1", self.target))
            self._open += [client, service]
            for work in ((self._there, client, service), (self._back, service, client)):
                threading.Thread(target=_until_closed, args=work, daemon=True).start()

    def _there(self, client: socket.socket, service: socket.socket) -> None:
        while data := client.recv(PIECE):
            if self.silent:
                continue
            self._pass_time(data)
            self.passed += len(data)
            if self.is_cut:
                self._reset()
                return
            service.sendall(self._changed(data))

    def _back(self, service: socket.socket, client: socket.socket) -> None:
        while data := service.recv(PIECE):
            self._pass_time(data)
            self.returned += len(data)
            client.sendall(data)

    def _pass_time(self, data: bytes) -> None:
        if self.bytes_per_second:
            time.sleep(len(data) / self.bytes_per_second)

    def _changed(self, data: bytes) -> bytes:
        """Heads of requests are small and come in one piece here."""
        if not self.without:
            return data
        return re.sub(rb"(?i)\r\n" + self.without.encode() + rb":[^\r]*(?=\r\n)", b"", data)

    def _reset(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()


def _until_closed(work: Pump, one: socket.socket, other: socket.socket) -> None:
    try:
        with suppress(OSError):
            work(one, other)
    finally:
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def tcp_proxy(target: int) -> Generator[TcpProxy]:
    """One that stands before a port."""
    proxy = TcpProxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
