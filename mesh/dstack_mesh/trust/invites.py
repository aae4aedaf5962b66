"""What became of invitations, written down for people who ask who came in by which.

No software reads it. The secret and the key made from it are in no file: an invitation ends with
the process that serves it, so none is ever used twice.
"""

import json
from datetime import datetime
from pathlib import Path

from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home
from dstack_mesh.trust.invite import Burned, Expired, Invite, Live, State, Used

MOST_RECORDS = 256


class InviteBook:
    """The invitations made in a home, one small file each. Several processes may write."""

    def __init__(self, home: Home) -> None:
        self._folder = home.keys / "invites"

    def write(self, invite: Invite, now: datetime) -> None:
        """Notes the state of an invitation; durable on return."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind, detail = _state_words(invite.state)
        fields = {
            "mesh_id": invite.mesh_id,
            "role": invite.role.value,
            "state": kind,
            "detail": detail,
            "changed_at": now.isoformat(),
        }
        write_durably(self._path(invite.invite_id), json.dumps(fields).encode())
        self._prune()

    def _path(self, invite_id: str) -> Path:
        # Ids come from strangers; only letters and digits become a name of a file.
        safe = "".join(letter for letter in invite_id if letter.isascii() and letter.isalnum())
        return self._folder / f"{safe[:16]}.json"

    def _prune(self) -> None:
        files = sorted(self._folder.glob("[!.]*.json"), key=_changed_at)
        for path in files[:-MOST_RECORDS]:
            path.unlink(missing_ok=True)


def _state_words(state: State) -> tuple[str, str]:
    match state:
        case Live(tries_left):
            return "live", str(tries_left)
        case Used(by):
            return "used", by
        case Expired():
            return "expired", ""
        case Burned():
            return "burned", ""


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process pruned it
        return 0.0
