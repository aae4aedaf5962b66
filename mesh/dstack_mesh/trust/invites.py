"""What became of invitations, written down so that none is ever used twice.

The secret and the key made from it are in no file: an invitation ends with the process that serves
it.
"""

import json
from datetime import datetime
from pathlib import Path

from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId, PeerId
from dstack_mesh.trust.invite import Burned, Expired, Invite, Live, State, Used
from dstack_mesh.trust.membership import Role

MOST_RECORDS = 256


@frozen
class Record:
    """One line of the book."""

    invite: Invite
    changed_at: datetime


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

    def read(self, invite_id: str) -> Record | None:
        """What is noted of an invitation."""
        try:
            fields = json.loads(self._path(invite_id).read_text())
        except (FileNotFoundError, ValueError):
            return None
        invite = Invite(
            invite_id=invite_id,
            mesh_id=MeshId(fields["mesh_id"]),
            role=Role(fields["role"]),
            expires_at=0.0,
            state=_state(fields["state"], fields["detail"]),
        )
        return Record(invite, datetime.fromisoformat(fields["changed_at"]))

    def _path(self, invite_id: str) -> Path:
        # Ids come from strangers; only letters and digits become a name of a file.
        safe = "".join(letter for letter in invite_id if letter.isascii() and letter.isalnum())
        return self._folder / f"{safe[:16]}.json"

    def _prune(self) -> None:
        files = sorted(self._folder.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
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


def _state(kind: str, detail: str) -> State:
    match kind:
        case "live":
            return Live(int(detail))
        case "used":
            return Used(PeerId(detail))
        case "burned":
            return Burned()
        case _:
            return Expired()
