"""Listeners that pretend to be a peer, adverts that lead to them, and what they were told.

`python -m support.fakes KEY CHAIN ADDRESS FIRST_PORT COUNT ADVERTS STATS`: listens on so many ports
and sends the packets of the file ADVERTS (a line of hexadecimal each) again and again. STATS holds
what happened, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.identity import private_pem
from dstack_mesh.trust.authority import to_pem
from support.adverts import GROUP, sender
from support.meshes import Mesh

ROUND_SECONDS = 4.0
"""In which all adverts are sent once."""


@dataclass(slots=True)
class Told:
    """What callers did: connections, finished handshakes, and bytes after them."""

    connections: int = 0
    handshakes: int = 0
    application_bytes: int = 0


def pretending(mesh: Mesh, peer_id: str) -> tuple[bytes, bytes]:
    """A key and a chain that has all the names of a peer and of its mesh, and not their keys."""
    real = x509.load_pem_x509_certificate(mesh.membership.root_path.read_bytes())
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _signed(authority, authority, real.subject, real.subject)
    mesh_id = mesh.membership.mesh_id
    uris = (f"mesh://{mesh_id}/n/{peer_id}", f"mesh://{mesh_id}/r/run")
    names = [x509.DNSName(f"{peer_id}.mesh"), x509.DNSName("mesh")]
    leaf = _signed(authority, key, real.subject, x509.Name([]), *names, *map(_uri, uris))
    return private_pem(key), to_pem(leaf) + to_pem(root)


def _uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def _signed(
    by: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    subject: x509.Name,
    *names: x509.GeneralName,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).issuer_name(issuer)
    builder = builder.not_valid_after(now + timedelta(days=1)).subject_name(subject)
    builder = builder.public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(not names, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(by, hashes.SHA256())


async def _main(arguments: list[str]) -> None:
    key, chain, address, first, count, adverts, stats = arguments
    told, context = Told(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.connections += 1
        with suppress(OSError, ssl.SSLError):
            await writer.start_tls(context)
            told.handshakes += 1
            while data := await reader.read(1 << 16):
                told.application_bytes += len(data)
        writer.transport.abort()

    for port in range(int(first), int(first) + int(count)):
        await asyncio.start_server(serve, address, port)
    packets = _packets(Path(adverts))
    sending = sender(address)
    while True:
        for packet in packets:
            with suppress(OSError):
                sending.sendto(packet, GROUP)
            await asyncio.sleep(ROUND_SECONDS / max(1, len(packets)))
        Path(stats).with_suffix(".new").write_text(json.dumps(asdict(told)))
        Path(stats).with_suffix(".new").replace(stats)
        if not packets:
            await asyncio.sleep(0.1)


def _packets(file: Path) -> list[bytes]:
    return [bytes.fromhex(line) for line in file.read_text().split()]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, socket.timeout):
        asyncio.run(_main(sys.argv[1:]))
