"""Peers that were reached before, so that a command need not search again."""

import json
from collections.abc import Iterable
from pathlib import Path

from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.identity import is_id
from dstack_mesh.ids import Address, MeshId, PeerId

MOST_SAVED = 256
MOST_ADDRESSES = 8


@frozen
class SavedPeer:
    """An agent that answered once, and where."""

    peer_id: PeerId
    name: str
    addresses: tuple[Address, ...]


def load_saved(path: Path, mesh_id: MeshId) -> tuple[SavedPeer, ...]:
    """Those of this mesh, most recently reached first. A file that cannot be read holds nothing:
    it is a memory aid, and it is written anew."""
    try:
        content = json.loads(path.read_text())
        if content["version"] != 1 or content["mesh_id"] != mesh_id:
            return ()
        return tuple(map(_parse, content["peers"][:MOST_SAVED]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def save(path: Path, mesh_id: MeshId, peers: Iterable[SavedPeer]) -> None:
    """Replaces what is remembered, in one step. Not synced: losing it costs a search."""
    content = {
        "version": 1,
        "mesh_id": mesh_id,
        "peers": [
            {"peer_id": one.peer_id, "name": one.name, "addresses": one.addresses[:MOST_ADDRESSES]}
            for one in list(peers)[:MOST_SAVED]
        ],
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(path, json.dumps(content, indent=1).encode(), sync=False)


def remember(path: Path, mesh_id: MeshId, reached: Iterable[SavedPeer]) -> None:
    """Puts these in front of what is remembered already. Writes only if something changed."""
    before = load_saved(path, mesh_id)
    merged = {one.peer_id: one for one in (*reached,)}
    merged |= {one.peer_id: one for one in before if one.peer_id not in merged}
    if set(merged.values()) != set(before):
        save(path, mesh_id, merged.values())


def _parse(fields: dict[str, str | list[str]]) -> SavedPeer:
    peer_id, name, addresses = str(fields["peer_id"]), str(fields["name"]), fields["addresses"]
    if not is_id(peer_id):
        raise ValueError(peer_id)
    return SavedPeer(PeerId(peer_id), name, tuple(map(Address, addresses[:MOST_ADDRESSES])))
