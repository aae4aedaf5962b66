"""Keys that were replaced and are revoked when their overlap ends, as this home promised."""

import json
from datetime import datetime, timedelta

from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId

OVERLAP = timedelta(hours=24)
"""How long an old key goes on beside the new one: the time to restart an agent."""

MOST_RETIRING = 1024


class Retiring:
    """The promises of a home that signs certificates. Blocking; one process writes."""

    def __init__(self, home: Home) -> None:
        self._path = home.keys / "retiring.json"

    def all(self) -> dict[PeerId, datetime]:
        """Which keys are to be revoked, and when."""
        try:
            said: dict[str, str] = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        return {PeerId(peer): datetime.fromisoformat(at) for peer, at in said.items()}

    def add(self, peer_id: PeerId, at: datetime) -> None:
        """Promises it; durable on return. A promise is never put off."""
        kept = self.all()
        kept[peer_id] = min(at, kept.get(peer_id, at))
        self._write(dict(sorted(kept.items(), key=lambda one: one[1])[:MOST_RETIRING]))

    def due(self, now: datetime) -> list[PeerId]:
        """Keys whose overlap has ended."""
        return [peer_id for peer_id, at in self.all().items() if at <= now]

    def forget(self, peers: list[PeerId]) -> None:
        """They were revoked."""
        self._write({peer: at for peer, at in self.all().items() if peer not in peers})

    def _write(self, kept: dict[PeerId, datetime]) -> None:
        said = {peer: at.isoformat() for peer, at in kept.items()}
        write_durably(self._path, json.dumps(said).encode())
