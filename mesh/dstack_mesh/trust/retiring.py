"""Keys that were replaced and are revoked when their overlap ends, as this home promised."""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Busy
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import PeerId

OVERLAP = timedelta(hours=24)
"""How long an old key goes on beside the new one: the time to restart an agent."""

MOST_RETIRING = 1024


@frozen
class Promise:
    """An old key is revoked then, if the key that replaces it was admitted."""

    at: datetime
    by: PeerId


class Retiring:
    """The promises of a home that signs certificates. Blocking; threads and processes may write."""

    def __init__(self, home: Home) -> None:
        self._path = home.keys / "retiring.json"
        self._lock = home.keys / "retiring.lock"

    def all(self) -> dict[PeerId, Promise]:
        """Which keys are to be revoked, when, and what replaces them."""
        try:
            said: dict[str, dict[str, str]] = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        return {
            PeerId(peer): Promise(datetime.fromisoformat(one["at"]), PeerId(one["by"]))
            for peer, one in said.items()
        }

    def add(self, peer_id: PeerId, promise: Promise) -> None:
        """Promises it; durable on return. A promise is never put off.

        Raises:
            Busy: Too many are kept already.
        """
        with self._locked():
            kept = self.all()
            earlier = kept.get(peer_id, promise).at
            kept[peer_id] = Promise(min(promise.at, earlier), promise.by)
            if len(kept) > MOST_RETIRING:
                raise Busy(
                    "Too many keys wait to be revoked.",
                    f"This home promised that of {MOST_RETIRING:,} replaced keys.",
                    "Replace this one tomorrow.",
                )
            self._write(kept)

    def due(self, now: datetime) -> list[PeerId]:
        """Keys whose overlap has ended."""
        return [peer_id for peer_id, one in self.all().items() if one.at <= now]

    def replaced_by(self, peer_id: PeerId) -> list[PeerId]:
        """Keys that wait and were replaced by this one, or by one that it replaced."""
        found, by = list[PeerId](), {peer_id}
        promises = self.all()
        while fresh := {old for old, one in promises.items() if one.by in by} - set(found):
            found.extend(sorted(fresh))
            by = fresh
        return found

    def forget(self, peers: list[PeerId]) -> None:
        """They were revoked."""
        with self._locked():
            self._write({peer: one for peer, one in self.all().items() if peer not in peers})

    @contextmanager
    def _locked(self) -> Generator[None]:
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, kept: dict[PeerId, Promise]) -> None:
        said = {peer: {"at": one.at.isoformat(), "by": one.by} for peer, one in kept.items()}
        write_durably(self._path, json.dumps(said).encode())
