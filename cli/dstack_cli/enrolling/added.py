"""The hosts that were added from this home, so that they can be removed by name."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home


@frozen
class Added:
    """A host, and how it is reached.

    Attributes:
        remote_home: As the person named it; "" for the usual one.
    """

    name: str
    peer_id: str
    target: str
    identity: str
    options: tuple[str, ...]
    remote_home: str


def recall(home: Home) -> tuple[Added, ...]:
    """Those that were added, newest first; a file that cannot be read holds nothing."""
    try:
        lines = json.loads(_file(home).read_text())
        return tuple(_parsed(one) for one in lines)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()


def note(home: Home, added: Added) -> None:
    """Notes one; it takes the place of itself, and of what was in its place before."""
    where = (added.target, added.remote_home)
    others = [
        one
        for one in recall(home)
        if one.peer_id != added.peer_id and (one.target, one.remote_home) != where
    ]
    _write(home, [added, *others])


def forget(home: Home, added: Added) -> None:
    """Forgets one."""
    _write(home, [one for one in recall(home) if one.peer_id != added.peer_id])


def _parsed(fields: dict[str, Any]) -> Added:
    options: tuple[str, ...] = tuple(fields.pop("options"))
    return Added(options=options, **fields)


def _write(home: Home, hosts: list[Added]) -> None:
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(_file(home), json.dumps([asdict(one) for one in hosts], indent=1).encode())


def _file(home: Home) -> Path:
    return home.state / "hosts.json"
