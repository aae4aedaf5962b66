"""Speaks to a Docker engine over its Unix socket. Standard library only: the shim imports it.

The SDK costs 100 ms and 40 MB to import, in every shim; a shim needs five calls and two streams,
which it must be able to wait for together. HTTP/1.0 keeps answers free of chunk headers.
"""

import json
import socket
import struct

from dstack_agent.logs.address import socket_address

_READ_BYTES = 64 * 1024
_CALL_SECONDS = 60.0
_FRAME = struct.Struct(">BxxxI")


class EngineError(Exception):
    """The engine refused a call: its status and its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Engine:
    """An engine at a socket."""

    def __init__(self, path: str) -> None:
        self._address, _ = socket_address(path)

    def call(self, method: str, path: str) -> dict[str, object]:
        """What the engine answers; empty if it says nothing.

        Raises:
            EngineError: It refused.
            OSError: It is not there.
        """
        with self.open(method, path, _CALL_SECONDS) as connection:
            return parse_answer(read_all(connection))

    def open(self, method: str, path: str, seconds: float | None) -> socket.socket:
        """A connection on which an answer will come. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(self._address)
            connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        except OSError:
            connection.close()
            raise
        return connection


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the engine closes. Raises OSError."""
    parts: list[bytes] = []
    while data := connection.recv(_READ_BYTES):
        parts.append(data)
    return b"".join(parts)


def parse_answer(answer: bytes) -> dict[str, object]:
    """The JSON in a whole answer.

    Raises:
        EngineError: It is a refusal.
        OSError: It is cut off.
    """
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        raise ConnectionError("the engine closed the connection")
    status = int(head.split(None, 2)[1])
    try:
        fields: dict[str, object] = json.loads(body) if body.strip() else {}
    except ValueError as error:
        raise ConnectionError("the engine closed the connection") from error
    if status >= 400:
        raise EngineError(status, str(fields.get("message", head)))
    return fields


class OutputStream:
    """The output of a container, taken apart into its two streams.

    Args:
        connection: Its answer is being awaited; read by this from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._held = b""
        while b"\r\n\r\n" not in self._held:
            self._fill()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        if int(head.split(None, 2)[1]) >= 400:
            raise EngineError(int(head.split(None, 2)[1]), _message(self._held))
        connection.setblocking(False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> list[tuple[int, bytes]] | None:
        """What came, as stream and bytes in order; None at the end. Never waits."""
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            data = b""
            if not self._held:
                return []
        else:
            if not data:
                return None
        self._held += data
        return self._take_apart()

    def close(self) -> None:
        self._connection.close()

    def _take_apart(self) -> list[tuple[int, bytes]]:
        pieces: list[tuple[int, bytes]] = []
        start = 0
        held = self._held
        while len(held) >= start + _FRAME.size:
            kind, size = _FRAME.unpack_from(held, start)
            end = start + _FRAME.size + size
            if end > len(held):
                break
            stream = 1 if kind == 2 else 0
            payload = held[start + _FRAME.size : end]
            if pieces and pieces[-1][0] == stream:
                pieces[-1] = (stream, pieces[-1][1] + payload)
            else:
                pieces.append((stream, payload))
            start = end
        self._held = held[start:]
        return pieces

    def _fill(self) -> None:
        data = self._connection.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the engine closed the connection")
        self._held += data


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError):
        return body.decode(errors="replace")
