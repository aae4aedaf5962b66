"""A caller with TLS 1.2, which our own software never is: HTTP/2 by hand."""

import asyncio
import ssl

from dstack_mesh.trust.membership import Membership

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def call_with_tls_1_2(host: str, port: int, membership: Membership) -> tuple[int, str]:
    """Calls Hello; returns the status and the message that came back, as far as it can be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(membership.root_path)
    context.load_cert_chain(membership.certificate_path, membership.key_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname="mesh"
        )
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        headers = b"".join(
            _literal(name, value)
            for name, value in (
                (b":method", b"POST"),
                (b":scheme", b"https"),
                (b":path", b"/dstack_mesh.v1.MembershipService/Hello"),
                (b":authority", b"mesh"),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            )
        )
        body = b"\x00" + (0).to_bytes(4, "big")
        writer.write(
            _PREFACE + _frame(4, 0, 0, b"") + _frame(1, 4, 1, headers) + _frame(0, 1, 1, body)
        )
        await writer.drain()
        seen = await _read_headers(reader, writer)
    writer.transport.abort()
    return _status(seen), seen.decode(errors="replace")


async def _read_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Everything in HEADERS frames until the stream ends."""
    seen = b""
    while True:
        head = await reader.readexactly(9)
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        payload = await reader.readexactly(size)
        if kind == 4 and not flags & 1:
            writer.write(_frame(4, 1, 0, b""))
        if kind == 1:
            seen += payload
            if flags & 1:
                return seen


def _status(headers: bytes) -> int:
    # The names and values that gRPC's encoder sends are literal; it uses no Huffman coding.
    place = headers.index(b"grpc-status") + len(b"grpc-status")
    return int(headers[place + 1 : place + 1 + headers[place]])
