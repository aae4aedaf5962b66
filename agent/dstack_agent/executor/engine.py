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


class State:
    """How a container is: the engine's words."""

    __slots__ = ("error", "exit_code", "out_of_memory", "status")

    def __init__(self, status: str, exit_code: int, out_of_memory: bool, error: str) -> None:
        self.status = status
        self.exit_code = exit_code
        self.out_of_memory = out_of_memory
        self.error = error


class Published:
    """A container that runs: its first process, and by its own ports those of this machine."""

    __slots__ = ("ports", "process")

    def __init__(self, process: int, ports: "dict[int, int]") -> None:
        self.process = process
        self.ports = ports


class Engine:
    """An engine at a socket."""

    def __init__(self, path: str) -> None:
        self._address, _ = socket_address(path)

    def call(self, method: str, path: str, told: "dict[str, object] | None" = None) -> bytes:
        """The body of what the engine answers.

        Args:
            told: What it is told, as the fields of its document.

        Raises:
            EngineError: It refused.
            OSError: It is not there.
        """
        with self.open(method, path, _CALL_SECONDS, told) as connection:
            return answer_body(read_all(connection))

    def state(self, container: str) -> "State":
        """How a container is. Raises EngineError or OSError."""
        fields = json.loads(self.call("GET", f"/containers/{container}/json"))["State"]
        return State(
            str(fields["Status"]),
            int(fields["ExitCode"]),
            bool(fields["OOMKilled"]),
            str(fields["Error"]),
        )

    def published(self, container: str) -> "Published":
        """Where a container's ports are. Raises EngineError or OSError."""
        fields = json.loads(self.call("GET", f"/containers/{container}/json"))
        bound: dict[str, list[dict[str, str]] | None] = fields["NetworkSettings"]["Ports"] or {}
        ports = {
            int(inner.partition("/")[0]): int(places[0]["HostPort"])
            for inner, places in bound.items()
            if places
        }
        return Published(int(fields["State"]["Pid"]), ports)

    def open(
        self,
        method: str,
        path: str,
        seconds: float | None,
        told: "dict[str, object] | None" = None,
    ) -> socket.socket:
        """A connection on which an answer will come. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(self._address)
            connection.sendall(
                f"{method} {path} HTTP/1.0\r\nHost: docker\r\n".encode() + _body(told)
            )
        except OSError:
            connection.close()
            raise
        return connection


def _body(told: "dict[str, object] | None") -> bytes:
    """The end of the head of a request, and its body."""
    if told is None:
        return b"\r\n"
    body = json.dumps(told).encode()
    return b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the engine closes. Raises OSError."""
    parts: list[bytes] = []
    while data := connection.recv(_READ_BYTES):
        parts.append(data)
    return b"".join(parts)


def answer_body(answer: bytes) -> bytes:
    """The body of a whole answer.

    Raises:
        EngineError: It is a refusal.
        OSError: It is cut off.
    """
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        raise ConnectionError("the engine closed the connection")
    status = _status(head)
    if status >= 400:
        raise EngineError(status, _message(body))
    return body


class OutputStream:
    """The output of a container, taken apart into its two streams.

    Args:
        connection: Its answer is being awaited; read by this from now on.
        framed: What comes says of which stream it is, as it does where there is no terminal.
    """

    def __init__(self, connection: socket.socket, framed: bool = True) -> None:
        self._connection = connection
        self.framed = framed
        self._held = b""
        while b"\r\n\r\n" not in self._held:
            self._fill()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        if _status(head) >= 400:
            raise EngineError(_status(head), _message(self._held))
        connection.setblocking(False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> list[tuple[int, bytes]] | None:
        """What came, as stream and bytes in order; None at the end. Does not wait."""
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return self._take_apart()
        except ConnectionError:
            return None
        if not data:
            return self._take_apart() or None  # what came with the head of the answer
        self._held += data
        return self._take_apart()

    def close(self) -> None:
        self._connection.close()

    def _take_apart(self) -> list[tuple[int, bytes]]:
        if not self.framed:
            data, self._held = self._held, b""
            return [(0, data)] if data else []
        pieces: list[tuple[int, list[bytes]]] = []
        start = 0
        held = self._held
        while len(held) >= start + _FRAME.size:
            kind, size = _FRAME.unpack_from(held, start)
            end = start + _FRAME.size + size
            if end > len(held):
                break
            stream = 1 if kind == 2 else 0
            payload = held[start + _FRAME.size : end]
            if not pieces or pieces[-1][0] != stream:
                pieces.append((stream, []))
            pieces[-1][1].append(payload)
            start = end
        self._held = held[start:]
        return [(stream, b"".join(parts)) for stream, parts in pieces]

    def _fill(self) -> None:
        data = self._connection.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the engine closed the connection")
        self._held += data


def _status(head: bytes) -> int:
    return int(head.split(None, 2)[1])


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError):
        return body.decode(errors="replace")
