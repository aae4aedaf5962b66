"""What a host said of itself."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId, PeerId


@frozen
class Facts:
    """The answer of `there/look.py`.

    Attributes:
        root: The folder of its agent.
        clock_ahead_seconds: How far its clock is ahead of ours; about right to a second.
        cannot_write: The folder that may not be written; "" where all is well.
        other: Something in `root` that is no agent's, where no agent was before; "" for nothing.
        socket_bytes: Length of the path of the agent's socket.
        port_trouble: Why the agent could not listen; "" if it could, or does.
        serves: An agent of that folder answers now.
        mesh_id: The mesh it joined; "" for none.
        not_after: Until when its certificate holds; None without one.
        name, listen: As it was added before; "" if it was not, or not said.
        kept: How it is kept running: "systemd", "detached", "other", or "" if it was not added.
        docker: "yes", "no", or "group": there is an engine that its user may not use.
        driver: Version of NVIDIA's driver; "" without one.
        wheels: Wheels that it has, with the SHA-256 of each.
    """

    user: str
    root: str
    host: str
    system: str
    clock_ahead_seconds: float
    disk_free_bytes: int
    cannot_write: str
    other: str
    socket_bytes: int
    port_trouble: str
    serves: bool
    mesh_id: MeshId
    mesh_name: str
    peer_id: PeerId
    not_after: datetime | None
    name: str
    listen: str
    kept: str
    user_manager: bool
    docker: str
    driver: str
    wheels: Mapping[str, str]
    path: str

    @property
    def foreign(self) -> bool:
        """Whether a daemon of a mesh runs there that we did not start."""
        return self.serves and bool(self.mesh_id) and self.kept in ("", "other")


def facts_of(answer: Mapping[str, Any], now: float) -> Facts:
    """The answer as a value. `now` is our clock when it was asked and answered, in the middle."""
    noted = answer["noted"]
    not_after = str(answer["not_after"])
    return Facts(
        user=str(answer["user"]),
        root=str(answer["root"]),
        host=str(answer["host"]),
        system=str(answer["system"]),
        clock_ahead_seconds=float(answer["now"]) - now,
        disk_free_bytes=int(answer["disk_free_bytes"]),
        cannot_write=str(answer["cannot_write"]),
        other=str(answer["other"]),
        socket_bytes=int(answer["socket_bytes"]),
        port_trouble=str(answer["port_trouble"]),
        serves=bool(answer["serves"]),
        mesh_id=MeshId(answer["mesh_id"]),
        mesh_name=str(answer["mesh_name"]),
        peer_id=PeerId(answer["peer_id"]),
        not_after=datetime.fromisoformat(not_after) if not_after else None,
        name=str(noted.get("name", "")),
        listen=str(noted.get("listen", "")),
        kept=str(noted.get("kept", "")),
        user_manager=bool(answer["user_manager"]),
        docker=str(answer["docker"]),
        driver=str(answer["driver"]),
        wheels={str(name): str(digest) for name, digest in answer["wheels"].items()},
        path=str(answer["path"]),
    )
