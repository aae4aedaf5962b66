"""What of a network's multicast DNS is looked at. Pure: packets and the time go in.

Anybody on the network may send as much as they like, under any address. A packet is parsed and
remembered only if it speaks of our service and, for an agent, only if it carries the tag of a
member: that costs some microseconds, and a flood of adverts costs no memory. Tags can be heard and
sent again, so what goes under one instance's name has a limit too.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from dstack_mesh.discovery.announcement import is_tag

LONGEST_PACKET = 9000
QUERIES_A_SECOND = 50.0
ADVERTS_A_SECOND = 200.0
"""Of packets that cannot be told apart, by who looks for a few seconds."""

OF_AN_INSTANCE_A_SECOND = 5.0
MOST_INSTANCES = 1024
MOST_PAIRS = 64
"""Instances times tags that are tried of one packet; eight agents on one host fit."""

_OURS = b"\x0c_dstack-mesh"
_ANSWER, _TRUNCATED = 0x80, 0x02
_INSTANCE = re.compile(rb"\x10([0-9a-f]{16})")
_TAG = re.compile(rb"\x0et=([0-9a-f]{12})")


class Bucket:
    """Lets through so many a second, and twice as many at once after a pause."""

    def __init__(self, a_second: float) -> None:
        self._rate = a_second
        self._left = 2 * a_second
        self._at = float("-inf")

    def takes(self, now: float) -> bool:
        self._left = min(2 * self._rate, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Interest(Protocol):
    """Whether an answer that speaks of our service is worth reading."""

    def takes(self, packet: bytes, now: float) -> bool: ...


class Nobody:
    """Of whoever only announces."""

    def takes(self, packet: bytes, now: float) -> bool:
        return False


class Everybody:
    """Of who looks for a few seconds for members and strangers: so many, whoever they are."""

    def __init__(self) -> None:
        self._bucket = Bucket(ADVERTS_A_SECOND)

    def takes(self, packet: bytes, now: float) -> bool:
        return self._bucket.takes(now)


class Members:
    """Of who looks for a mesh: adverts with its tag, and what else those instances send."""

    def __init__(self, discovery_key: bytes) -> None:
        self._key = discovery_key
        self._known: dict[str, Bucket] = {}

    def takes(self, packet: bytes, now: float) -> bool:
        instances = {one.decode() for one in _INSTANCE.findall(packet)}
        tags = {one.decode() for one in _TAG.findall(packet)}
        if len(instances) * len(tags) > MOST_PAIRS:
            return False
        for instance in instances:
            if instance in self._known or any(is_tag(self._key, instance, tag) for tag in tags):
                return self._bucket(instance).takes(now)
        return False

    def _bucket(self, instance: str) -> Bucket:
        if instance not in self._known and len(self._known) >= MOST_INSTANCES:
            del self._known[next(iter(self._known))]
        return self._known.setdefault(instance, Bucket(OF_AN_INSTANCE_A_SECOND))


class Holder:
    """Of a newcomer: the listener of one invitation."""

    def __init__(self, invite_id: str) -> None:
        self._text = f"i={invite_id}".encode()
        self._bucket = Bucket(ADVERTS_A_SECOND)

    def takes(self, packet: bytes, now: float) -> bool:
        return self._text in packet and self._bucket.takes(now)


class Sieve:
    """Decides about each packet.

    Args:
        interest: In which answers.
        elsewhere: Networks of other interfaces. The kernel gives every listener what arrives on
            any of them (`IP_MULTICAST_ALL`, which loses packets where the port is shared), and
            what comes from there is for whoever listens there.
    """

    def __init__(self, interest: Interest, elsewhere: Sequence[IPv4Network] = ()) -> None:
        self._interest = interest
        self.elsewhere = tuple(elsewhere)
        self._queries = Bucket(QUERIES_A_SECOND)

    def takes(self, packet: bytes, source: str, now: float) -> bool:
        """Whether this packet is looked at."""
        if not 12 < len(packet) <= LONGEST_PACKET or _OURS not in packet:
            return False
        if self.elsewhere and any(IPv4Address(source) in one for one in self.elsewhere):
            return False
        if packet[2] & _TRUNCATED:  # it would be kept until its rest comes
            return False
        if packet[2] & _ANSWER:
            return self._interest.takes(packet, now)
        return self._queries.takes(now)
