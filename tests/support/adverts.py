"""Packets of multicast DNS, made by hand, and a flood of them.

`python -m support.adverts ADDRESS RATE SECONDS [REPLAYED]`: adverts of agents that do not exist,
each under a name of its own, sent from the interface with that address. Prints how many were sent.
With a file of packets, those are sent too, in turn, with other addresses.
"""

import os
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
_SERVICE = b"\x0c_dstack-mesh\x04_tcp\x05local\x00"


def advert(
    instance: str, tag: str, address: str, port: int, text: bytes = b"", server: str = ""
) -> bytes:
    """An agent's advert, as zeroconf sends it: PTR, SRV, TXT and A in one packet."""
    name = bytes([len(instance)]) + instance.encode() + b"\xc0\x0c"
    host = (server or instance[::-1]).encode()
    texts = [b"v=1", *([b"t=" + tag.encode()] if tag else []), *([text] if text else [])]
    packet = struct.pack(">6H", 0, 0x8400, 0, 4, 0, 0)
    packet += _SERVICE + struct.pack(">HHIH", 12, 1, 4500, len(name))
    at = len(packet)
    pointer = struct.pack(">H", 0xC000 | at)
    packet += name
    target = bytes([len(host)]) + host + b"\x05local\x00"
    packet += pointer + struct.pack(">HHIHHHH", 33, 0x8001, 120, 6 + len(target), 0, 0, port)
    where = struct.pack(">H", 0xC000 | len(packet))
    packet += target
    body = b"".join(bytes([len(one)]) + one for one in texts)
    packet += pointer + struct.pack(">HHIH", 16, 0x8001, 4500, len(body)) + body
    return packet + where + struct.pack(">HHIH", 1, 0x8001, 120, 4) + socket.inet_aton(address)


def pointer(alias: str, text: bytes = b"") -> bytes:
    """An advert that calls something an agent that is none."""
    labels = alias.rstrip(".").split(".")
    name = b"".join(bytes([len(one)]) + one.encode() for one in labels) + b"\x00"
    packet = struct.pack(">6H", 0, 0x8400, 0, 2, 0, 0)
    packet += _SERVICE + struct.pack(">HHIH", 12, 1, 4500, len(name)) + name
    body = bytes([len(text)]) + text
    return packet + b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 4500, len(body)) + body


def query() -> bytes:
    """Who is there?"""
    return struct.pack(">6H", 0, 0, 1, 0, 0, 0) + _SERVICE + struct.pack(">HH", 12, 1)


def sender(address: str) -> socket.socket:
    """A socket that sends to groups from the interface with this address."""
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sending.bind((address, 5353))
    return sending


def storm(address: str, rate: int, seconds: float) -> int:
    """Sends that many a second for so long; returns how many it were."""
    sending = sender(address)
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        for _ in range(max(1, int(passed * rate) - sent)):
            noise = os.urandom(16).hex()
            packet = advert(noise[:16], noise[20:32], f"10.200.{sent >> 8 & 255}.{sent & 255}", 1)
            sending.sendto(packet, GROUP)
            sent += 1
        time.sleep(0.002)
    return sent


if __name__ == "__main__":
    print(storm(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
