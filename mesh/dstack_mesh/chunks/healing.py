"""Opens the index of a store, and makes it again from the packs if it is damaged or lost.

Every process that has a store open holds a shared lock beside it. Only who is alone puts a new
index in the place of the old one, which is kept aside. Whatever a pack still holds whole is found
again; what cannot be read is said.
"""

import fcntl
import logging
import os
from pathlib import Path

from dstack_mesh.chunks.adopting import verified_chunks
from dstack_mesh.chunks.frames import Hole
from dstack_mesh.chunks.index import Index, IndexDamaged, damage_note
from dstack_mesh.chunks.packs import Place, sync_folder
from dstack_mesh.chunks.room import trouble
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

log = logging.getLogger(__name__)

_ROWS = 4096


@frozen
class Healed:
    """What became of a store whose index was made again.

    Attributes:
        damaged: Chunks that a pack names and whose bytes are wrong; they are missing now.
        lost_bytes: Parts of packs where nothing could be read, torn tails among them.
    """

    packs: int
    chunks: int
    damaged: int
    lost_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.chunks:,} chunks were found again in {self.packs:,} packs; {self.damaged:,} are"
            f" damaged, and {self.lost_bytes:,} bytes hold nothing that can be read"
        )


class Presence:
    """Says that a process has a store open. Kept until `close`."""

    def __init__(self, folder: Path) -> None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(folder / "open.lock", flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_SH)
        except OSError as error:
            raise trouble(error, folder) from error

    def alone(self) -> bool:
        """Whether nobody else has it open, who could not open it now either until `shared`."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            return False
        return True

    def shared(self) -> None:
        """Lets others open it again."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def close(self) -> None:
        """Says that it is open here no more."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def open_index(folder: Path, presence: Presence) -> tuple[Index, Healed | None]:
    """The index of the store in a folder, and what became of it if it had to be made again.

    Raises:
        IndexDamaged: It is damaged, and others have the store open.
        Refused: A newer version of the program has changed its form.
    """
    path = folder / "index.sqlite"
    if not _is_lost(folder):
        try:
            return Index(path), None
        except IndexDamaged:
            pass
    if not presence.alone():
        return Index(path), None  # made by somebody else meanwhile, or still damaged
    try:
        if not _is_lost(folder):
            try:
                return Index(path), None
            except IndexDamaged:
                pass
        healed = _make_again(folder)
        log.warning("The index of %s was damaged and is made again: %s.", folder, healed)
        return Index(path), healed
    finally:
        presence.shared()


def _is_lost(folder: Path) -> bool:
    """Whether it was found damaged, or is not there and there are packs."""
    path = folder / "index.sqlite"
    if damage_note(path).exists():
        return True
    empty = not path.exists() or path.stat().st_size == 0
    return empty and bool(list((folder / "packs").iterdir()))


def _make_again(folder: Path) -> Healed:
    """Makes an index beside the old one and puts it into its place."""
    path, draft = folder / "index.sqlite", folder / "index.new"
    for left in folder.glob("index.new*"):
        left.unlink()
    index = Index(draft)
    try:
        healed = _read_packs(folder / "packs", index)
        index.fold()
    finally:
        index.close()
    try:
        for old in (path, path.with_name("index.sqlite-wal"), path.with_name("index.sqlite-shm")):
            if old.exists():
                old.replace(old.with_name(f"old-{old.name}"))
        draft.replace(path)
        damage_note(path).unlink(missing_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise trouble(error, folder) from error
    return healed


def _read_packs(packs: Path, index: Index) -> Healed:
    found = damaged = lost = 0
    names = sorted(path.name for path in packs.glob("*.pack"))
    for name in names:
        rows: list[tuple[Digest, Place]] = []
        for row in verified_chunks(packs / name):
            match row:
                case Hole():
                    lost += row.end - row.begin
                case (digest, None):
                    damaged += 1
                case (digest, Place() as place):
                    rows.append((digest, place))
            if len(rows) == _ROWS:
                index.add(rows)
                found, rows = found + len(rows), []
        index.add(rows)
        found += len(rows)
    return Healed(len(names), found, damaged, lost)
