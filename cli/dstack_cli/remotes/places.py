"""Which places outside the mesh this home has, and what stands for one where peers are named."""

import os
from pathlib import Path

from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId

HERE = PeerId("here")
"""This home, among those that have a copy of what was pulled."""

_REMOTE = "remote:"
"""No peer has an id that begins like this."""


def has_remotes(home: Home) -> bool:
    """Whether a remote was named here; most homes have none and load nothing for them."""
    return home.remotes.exists() or bool(chosen_remote())


def chosen_remote() -> str:
    """The default remote that the environment says; "" for none."""
    return os.environ.get("DSTACK_REMOTE", "")


def pulled_folder(home: Home) -> Path:
    """Where it is noted what was pulled."""
    return home.state / "pulled"


def id_of_remote(name: str) -> PeerId:
    """Stands for a remote."""
    return PeerId(f"{_REMOTE}{name}")


def remote_in(peer_id: PeerId) -> str:
    """The name of the remote that an id stands for; "" if it stands for none."""
    return peer_id.removeprefix(_REMOTE) if peer_id.startswith(_REMOTE) else ""


def is_elsewhere(peer_id: PeerId) -> bool:
    """Whether an id stands for a place outside the mesh."""
    return peer_id == HERE or bool(remote_in(peer_id))
