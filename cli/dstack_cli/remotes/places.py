"""What stands for a place outside the mesh where peers are named: no peer has such an id."""

from dstack_mesh.ids import PeerId

HERE = PeerId("here")
"""This home, among those that have a copy of what was pulled."""

_REMOTE = "remote:"


def id_of_remote(name: str) -> PeerId:
    """Stands for a remote."""
    return PeerId(f"{_REMOTE}{name}")


def remote_in(peer_id: PeerId) -> str:
    """The name of the remote that an id stands for; "" if it stands for none."""
    return peer_id.removeprefix(_REMOTE) if peer_id.startswith(_REMOTE) else ""


def is_elsewhere(peer_id: PeerId) -> bool:
    """Whether an id stands for a place outside the mesh."""
    return peer_id == HERE or bool(remote_in(peer_id))
