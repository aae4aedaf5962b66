"""A small app that stands for Jupyter and its like: pages, a WebSocket, long downloads, uploads.

`python stand_in.py PORT [HOST]` in a job; standard library only, for it is the job's own file.
"""

import base64
import hashlib
import os
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/ws"):
            self._websocket()
        elif self.path.startswith("/big/"):
            self._big(int(self.path[5:]))
        else:
            self._answer(f"hello from {os.environ.get('RUN_NAME', '')} {self.path}".encode())

    def do_POST(self) -> None:
        digest = hashlib.sha256()
        left = int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read(min(left, 65536))
            digest.update(data)
            left -= len(data)
        self._answer(digest.hexdigest().encode())

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _big(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        block = bytes(range(256)) * 256
        while count:
            self.wfile.write(block[: min(count, len(block))])
            count -= min(count, len(block))

    def _websocket(self) -> None:
        """Echoes short text frames until the other side closes."""
        key = self.headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        while len(head := self.rfile.read(2)) == 2 and head[0] & 15 == 1:
            mask = self.rfile.read(4)
            body = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(struct.pack("BB", 129, len(body)) + body)
        self.close_connection = True


class Half(threading.Thread):
    """Reads until the other side ends its way, then says how much that was."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server((host, port))

    def run(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                count = 0
                while data := connection.recv(65536):
                    count += len(data)
                connection.sendall(f"{count} bytes came".encode())


if __name__ == "__main__":
    host = os.environ.get("DSTACK_APP_HOST", "127.0.0.1")
    port, half = int(sys.argv[1]), int(sys.argv[2])
    Half(host, half).start()
    server = ThreadingHTTPServer((host, port), Handler)
    print(f"Serving at http://{host}:{port} and http://localhost:{port}/page.", flush=True)
    server.serve_forever()
