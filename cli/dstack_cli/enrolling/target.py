"""Which host a person means, and whether the words beside it can be meant: before ssh is asked."""

import re
from pathlib import Path

from dstack_cli.misused import Misused
from dstack_mesh.discovery.seeds import parse_seed
from dstack_mesh.faults import Invalid
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


def check_identity(text: str) -> str:
    """The path of a key file, from wherever it is used later. Raises Misused if there is none."""
    if not text:
        return ""
    path = Path(text)
    if text.startswith("~/"):  # `--identity=~/key` is not expanded by a shell
        path = path.expanduser()
    if not path.is_file():
        raise Misused(f"There is no key {text}.", "", "ls ~/.ssh", code="no-such-key")
    return str(path.absolute())


def check_name(text: str) -> None:
    """What members are to call it. Raises Misused."""
    if len(text) > 63 or not text.isprintable() or any(map(str.isspace, text)):
        why = "A name has at most 63 characters and no blanks."
        raise Misused(f"{text!r} cannot be a name.", why, "--name ws-3", code="usage")


def check_listen(text: str) -> None:
    """Where it is to listen. Raises Misused."""
    try:
        _ = text and parse_seed(text)
    except Invalid as wrong:
        hint = "--listen 0.0.0.0:7420"
        raise Misused(f"--listen: {wrong.what}", wrong.why, hint, code="usage") from wrong


def _no_target(text: str, why: str) -> Misused:
    return Misused(
        f'"{text}" is not a host.', why, "dstack agents add mara@ws-3", code="bad-ssh-target"
    )
