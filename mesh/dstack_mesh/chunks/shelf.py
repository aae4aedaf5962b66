"""The manifests of a store and which of them must stay: a file each.

A file's time says when its tree was last asked for. `keep` writes down that a tree stays although
no run of this home names it, as for a copy of what ran elsewhere, and for whom.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dstack_mesh.chunks.digest import DIGEST_BYTES, digest_of
from dstack_mesh.chunks.packs import sync_folder
from dstack_mesh.chunks.room import trouble
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Invalid, Missing
from dstack_mesh.ids import Digest

FRESH_PART = 6
"""A time that is younger than this part of a grace is not written again."""

_NAME = re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
_OWNER = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Shelf:
    """The manifests below a folder. Thread-safe, and for several processes."""

    def __init__(self, folder: Path, grace_seconds: float) -> None:
        self._fresh = grace_seconds / FRESH_PART
        self.manifests = folder / "manifests"
        self.kept = folder / "kept"

    def has(self, digest: Digest) -> bool:
        """Whether a manifest is here; if so it stays for a while."""
        path = self.path(digest)
        try:
            if path.stat().st_mtime < time.time() - self._fresh:
                os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:  # a disk that takes no writes still has it
            return path.exists()
        return True

    def read(self, digest: Digest) -> bytes:
        """A manifest's encoding, verified.

        Raises:
            Missing: It is not here.
            Damaged: Its bytes are wrong; it is missing from now on.
        """
        path = self.path(digest)
        try:
            encoded = path.read_bytes()
        except FileNotFoundError as error:
            raise Missing("There is no such list of files here.", digest.hex()) from error
        except OSError as error:
            self._set_aside(path)
            raise Damaged(f"The list of files {path} cannot be read.", str(error)) from error
        if digest_of(encoded) != digest:
            self._set_aside(path)
            raise Damaged(f"The list of files {path} is damaged.", "", "Fetch it again.")
        return encoded

    def was_damaged(self, digest: Digest) -> bool:
        """Whether a manifest was here and was found damaged."""
        return self.path(digest).with_suffix(".damaged").exists()

    def write(self, digest: Digest, encoded: bytes) -> None:
        """Keeps a manifest durably."""
        try:
            write_durably(self.path(digest), encoded)
        except OSError as error:
            raise trouble(error, self.manifests) from error

    def keep(self, digest: Digest, owner: str) -> None:
        """Has a tree stay until `let_go` of this owner, as a run's id. Durable on return."""
        if not _OWNER.fullmatch(owner):
            raise Invalid("A tree cannot be kept for such a name.", repr(owner))
        mark = self.kept / f"{digest.hex()}@{owner}"
        try:
            mark.touch(mode=0o600)
            sync_folder(self.kept)
        except OSError as error:
            raise trouble(error, self.kept) from error

    def let_go(self, owner: str) -> None:
        """What was kept for this owner need not stay any more."""
        for mark in self.kept.iterdir():
            if mark.name.endswith(f"@{owner}"):
                mark.unlink(missing_ok=True)

    def owners(self) -> set[str]:
        """For whom trees are kept."""
        return {mark.name.partition("@")[2] for mark in self.kept.iterdir()}

    def roots(self) -> set[Digest]:
        """Trees that are kept for somebody."""
        names = (mark.name.partition("@")[0] for mark in self.kept.iterdir())
        return {Digest(bytes.fromhex(name)) for name in names if _NAME.fullmatch(name)}

    def all(self) -> Iterator[tuple[Digest, float]]:
        """Every manifest and when it was last asked for."""
        for path in self.manifests.iterdir():
            if _NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    yield Digest(bytes.fromhex(path.name)), path.stat().st_mtime

    def litter(self, before: float) -> Iterator[Path]:
        """Files that are no manifest and older than a time: drafts of writers that died, and
        damaged ones."""
        for path in self.manifests.iterdir():
            with suppress(FileNotFoundError):
                if not _NAME.fullmatch(path.name) and path.stat().st_mtime < before:
                    yield path

    def path(self, digest: Digest) -> Path:
        """Where a manifest lies."""
        return self.manifests / digest.hex()

    def _set_aside(self, path: Path) -> None:
        with suppress(OSError):
            path.rename(path.with_suffix(".damaged"))
