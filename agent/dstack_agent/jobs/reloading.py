"""Lays newer code into a job that runs: what its submitter edits meanwhile.

The list of files that lie there now is noted beside the work directory. While there is such a note
the code is not what the job was given, so that its result stands in for no later one.
"""

import threading
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from dstack_agent.jobs.places import Places
from dstack_mesh.chunks.manifest import Entry, Manifest
from dstack_mesh.chunks.replacing import Replaced, replace_tree
from dstack_mesh.chunks.room import check_reserve, in_words
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

NOTE = "code"
"""The list of the files that were laid last, in the attempt's folder."""

GIT = ".git"
"""A checkout stays at the commit that it was made of."""


def is_reloaded(folder: Path) -> bool:
    """Whether the code of an attempt was ever replaced."""
    return (folder / NOTE).exists()


@frozen
class Reloading:
    """Replaces the code of one attempt.

    Attributes:
        given: The code that the job began with.
    """

    folder: Path
    given: Digest
    places: Places
    store: ChunkStore
    _one: threading.Lock = field(default_factory=threading.Lock)

    def lay(self, code: Digest) -> Replaced:
        """Lays newer code over what was laid last. In a thread; one after the other.

        Raises:
            MeshError: Bytes are missing, the disk is full, or a file and a folder clash.
        """
        with self._one, in_words(self.folder):
            check_reserve(self.folder)
            after = self.store.get_manifest(code)
            before = self._before()
            done = replace_tree(
                *(self.store, _files(before), _files(after)),
                target=self.places.work,
                within=self.folder,
            )
            write_durably(self.folder / NOTE, after.encode(), sync=False)
            return done

    def _before(self) -> Manifest:
        note = self.folder / NOTE
        if note.exists():
            return Manifest.decode(note.read_bytes())
        given = self.store.get_manifest(self.given)
        write_durably(note, given.encode(), sync=False)
        return given


def _files(manifest: Manifest) -> Iterable[Entry]:
    return [entry for entry in manifest.entries if GIT not in entry.path.split("/")]
