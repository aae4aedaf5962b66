"""The roster of a home on disk, shared by its agent and its commands.

`roster.statements` holds the statements, a line each: the exact signed bytes. `roster.json` holds
what they come to, for commands that load no cryptography. Whoever writes holds the lock, reads
again, adds and writes both files whole, so a reader needs no lock and nothing is lost between two
writers. A statement was verified before it was written, and is not verified at each reading.
"""

import base64
import fcntl
import json
import logging
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Busy, MeshError
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId
from dstack_mesh.signing import Signed
from dstack_mesh.trust.roster.picture import Picture, empty, from_json, to_json
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import (
    MOST_OF_AN_ADMIN,
    MOST_STATEMENTS,
    Sealed,
    Statement,
)

log = logging.getLogger(__name__)

ReadBody = Callable[[Signed], Statement]
"""`dstack_mesh.wire.statements.read_body`: what signed bytes say."""

Stamp = tuple[int, int, int]


class Book:
    """The statements of one mesh in one home. Blocking: call it in a thread.

    Args:
        home: Whose keys the statements lie beside.
        mesh_id: Of which mesh; those of another are left out.
        read_body: Knows how statements are written.
    """

    def __init__(self, home: Home, mesh_id: MeshId, read_body: ReadBody) -> None:
        self._home = home
        self._folder = home.keys
        self._mesh_id = mesh_id
        self._read_body = read_body
        self._last: tuple[Stamp | None, Roster] = (None, Roster.of(mesh_id))

    def read(self) -> Roster:
        """The statements that are written down. A damaged line is left out and said."""
        stamp = self.stamp()
        if stamp != self._last[0]:
            self._last = stamp, self._parsed()
        return self._last[1] if stamp else Roster.of(self._mesh_id)

    def open(self) -> Roster:
        """The statements, for a process that runs; what a crash left of the picture is mended."""
        roster = self.read()
        if read_picture(self._home, self._mesh_id).digest != roster.picture.digest:
            try:
                with self._locked():
                    self._write_picture(self.read())
            except OSError as failed:
                log.warning("%s stays as it is: %s", picture_path(self._folder), failed)
        return roster

    def _parsed(self) -> Roster:
        try:
            lines = statements_path(self._folder).read_bytes().splitlines()
        except FileNotFoundError:
            return Roster.of(self._mesh_id)
        return Roster.of(self._mesh_id, filter(None, map(self._parse, lines)))

    def stamp(self) -> Stamp | None:
        """Differs after every change."""
        try:
            seen = statements_path(self._folder).stat()
        except FileNotFoundError:
            return None
        return seen.st_ino, seen.st_mtime_ns, seen.st_size

    def add(self, statements: Iterable[Sealed]) -> Roster:
        """Takes verified statements in; durable on return. What is then in the book."""
        with self._locked():
            before = self.read()
            after = before.take(statements)
            if after is not before:
                self._write(after)
            return after

    def issue(self, write: Callable[[Roster], Sequence[Sealed]]) -> Roster:
        """Adds statements of our own, which follow those in the book.

        Raises:
            Busy: The book is full.
        """
        with self._locked():
            before = self.read()
            written = write(before)
            after = before.take(written)
            if any(one.digest not in after.statements for one in written):
                raise Busy(
                    "The mesh's roster is full.",
                    f"It holds {len(before.statements):,} of {MOST_STATEMENTS:,} statements, "
                    f"and takes {MOST_OF_AN_ADMIN:,} of an admin.",
                    "Do it where the root key is, or make a new mesh: `dstack mesh create NAME` in "
                    "another home.",
                    code="roster-full",
                )
            self._write(after)
            return after

    def _write(self, roster: Roster) -> None:
        lines = b"".join(_line(one.signed) for one in roster.statements.values())
        write_durably(statements_path(self._folder), lines)
        self._write_picture(roster)
        self._last = self.stamp(), roster

    def _write_picture(self, roster: Roster) -> None:
        write_durably(picture_path(self._folder), json.dumps(to_json(roster.picture)).encode())

    def _parse(self, line: bytes) -> Sealed | None:
        try:
            body, key, signature = (base64.b64decode(part) for part in line.split(b" "))
            signed = Signed(body, key, signature)
            return Sealed(self._read_body(signed), signed)
        except (ValueError, MeshError) as broken:
            log.warning("a line of %s is left out: %s", statements_path(self._folder), broken)
            return None

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / "roster.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def read_picture(home: Home, mesh_id: MeshId) -> Picture:
    """What this home knows of the members, read without cryptography."""
    try:
        picture = from_json(json.loads(picture_path(home.keys).read_bytes()))
    except FileNotFoundError:
        return empty(mesh_id)
    except (ValueError, KeyError, TypeError) as broken:
        log.warning("%s cannot be read: %r", picture_path(home.keys), broken)
        return empty(mesh_id)
    return picture if picture.mesh_id == mesh_id else empty(mesh_id)


def statements_path(keys: Path) -> Path:
    return keys / "roster.statements"


def picture_path(keys: Path) -> Path:
    return keys / "roster.json"


def _line(signed: Signed) -> bytes:
    parts = (signed.body, signed.key, signed.signature)
    return b" ".join(map(base64.b64encode, parts)) + b"\n"
