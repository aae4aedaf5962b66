"""A curious neighbour without a certificate: connects, reads what is shown, listens to multicast.

`python -m support.prober HOST PORT`: prints what it got, as hexadecimal lines, until it is ended.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import time

from support.adverts import GROUP, query

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def certificate(host: str, port: int) -> bytes:
    """What the port shows, and what it answers to a call."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), 2) as plain, context.wrap_socket(plain) as tls:
        shown = tls.getpeercert(binary_form=True) or b""
        with contextlib.suppress(OSError):
            tls.sendall(_PREFACE)
            shown += tls.recv(1 << 16)
        return shown


def plaintext(host: str, port: int, said: bytes) -> bytes:
    """What the port answers without TLS."""
    with socket.create_connection((host, port), 2) as plain:
        plain.settimeout(1)
        plain.sendall(said)
        return plain.recv(1 << 16)


def multicast(seconds: float) -> bytes:
    """What is heard of who is there, and what is answered to whoever asks."""
    heard = b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ear.bind(("", 5353))
        member = struct.pack("4s4s", socket.inet_aton(GROUP[0]), b"\0" * 4)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        ear.settimeout(0.2)
        ear.sendto(query(), GROUP)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with contextlib.suppress(TimeoutError):
                heard += ear.recv(9000)
    return heard


def _main(host: str, port: int) -> None:
    while True:
        for look in (
            lambda: certificate(host, port),
            lambda: plaintext(host, port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            lambda: plaintext(host, port, _PREFACE),
            lambda: multicast(1.0),
        ):
            with contextlib.suppress(OSError):
                print(look().hex(), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
