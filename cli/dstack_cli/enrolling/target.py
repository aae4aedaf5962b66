"""Which host a person means."""

import re

from dstack_cli.misused import Misused
from dstack_mesh.frozen import frozen

_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.$@\\-]*")
_HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")


@frozen
class Target:
    """Where ssh goes, in the words of the person: a host may be a name of her ssh configuration."""

    host: str
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.host}]" if self.port is not None and ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.user}@{name}{port}" if self.user else f"{name}{port}"

    @property
    def words(self) -> tuple[str, ...]:
        """What ssh is given, the host last."""
        user = ("-l", self.user) if self.user else ()
        port = ("-p", str(self.port)) if self.port is not None else ()
        return (*user, *port, "--", self.host)


def parse_target(text: str) -> Target:
    """The host in "[user@]host[:port]"; an IPv6 address with a port stands in brackets.

    Raises:
        Misused: It is no such thing. A leading dash would be an option of ssh's.
    """
    user, at, rest = text.rpartition("@")
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
        port = port or "?"
    else:
        host, port = rest, ""
    if not _HOST.fullmatch(host) or (at and not _USER.fullmatch(user)):
        raise _no_target(text, "A host has letters, digits, dots and dashes.")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _no_target(text, f'"{port}" is no port; 1 to 65535 are.')
    return Target(host, user, int(port) if port else None)


def _no_target(text: str, why: str) -> Misused:
    return Misused(
        f'"{text}" is not a host.', why, "dstack agents add mara@ws-3", code="bad-ssh-target"
    )
