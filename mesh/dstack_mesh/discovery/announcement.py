"""What peers tell a network, and what is heard there.

An announcement tells a stranger that something speaks this protocol on a port, and nothing else:
the instance is random, and members know their own by a tag that only the mesh's discovery key can
make.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import field
from ipaddress import IPv4Address, ip_address

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Address

SERVICE = "_dstack-mesh._tcp.local."


_INSTANCE = re.compile(rf"[0-9a-f]{{16}}\.{re.escape(SERVICE)}")


def is_instance(name: str) -> bool:
    """Whether a name is one that a peer announces itself under."""
    return _INSTANCE.fullmatch(name) is not None


def tag_of(discovery_key: bytes, instance: str) -> str:
    """How members recognise an announcement of their mesh: 12 hexadecimal digits."""
    return hmac.digest(discovery_key, instance.encode(), hashlib.sha256).hex()[:12]


def is_tag(discovery_key: bytes, instance: str, tag: str) -> bool:
    """Whether a member of that mesh made the tag."""
    return hmac.compare_digest(tag.encode(), tag_of(discovery_key, instance).encode())


@frozen
class Announcement:
    """What one peer tells the network: a port, and a mark that some can read.

    Make it with `of_agent` or `of_invite`.

    Attributes:
        host: The address that is listened on; unspecified is all of them. Others are not announced.
    """

    port: int
    instance: str
    text: tuple[tuple[str, str], ...]
    host: str = "0.0.0.0"

    @classmethod
    def of_agent(cls, discovery_key: bytes, port: int, host: str = "0.0.0.0") -> "Announcement":
        """An agent of a mesh; only members can tell which mesh."""
        instance = secrets.token_hex(8)
        text = (("v", "1"), ("t", tag_of(discovery_key, instance)))
        return cls(port, instance, text, host)

    @classmethod
    def of_invite(cls, invite_id: str, port: int) -> "Announcement":
        """The listener of an invitation, found by the public part of its code."""
        return cls(port, secrets.token_hex(8), (("v", "1"), ("i", invite_id)))

    def reached_at(self, addresses: tuple[IPv4Address, ...]) -> tuple[IPv4Address, ...]:
        """Those of an interface's addresses that are listened on."""
        try:
            everywhere = ip_address(self.host).is_unspecified
        except ValueError:  # a name; whoever answers proves who it is
            everywhere = True
        return tuple(one for one in addresses if everywhere or str(one) == self.host)


@frozen
class Sighting:
    """An announcement that was heard. `interface` is the one that it was heard on."""

    instance: str
    addresses: tuple[Address, ...]
    text: dict[str, str] = field(hash=False)
    interface: str = ""

    def of_mesh(self, discovery_key: bytes) -> bool:
        """Whether a member of that mesh announced it."""
        return is_tag(discovery_key, self.instance, self.text.get("t", ""))

    def of_invite(self, invite_id: str) -> bool:
        return self.text.get("i", "") == invite_id
