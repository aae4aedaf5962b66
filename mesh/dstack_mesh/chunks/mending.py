"""What happens to a chunk whose bytes are wrong: kept as evidence, never served, brought again.

The reader asks for the repair: a fetch that meets a damaged chunk waits for another peer's copy and
goes on.
"""

from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dstack_mesh.ids import Digest

MOST_EVIDENCE = 256
"""Damaged chunks whose bytes are kept; the oldest go first."""


class Source(Protocol):
    """Where a chunk or a manifest may be had once more: stores of other peers.

    Called in threads, never in an event loop; may take seconds. What it gives is verified by who
    asked.
    """

    def chunk(self, digest: Digest) -> bytes | None:
        """A chunk; None if nobody gives it now."""
        ...

    def manifest(self, digest: Digest) -> bytes | None:
        """A manifest's encoding; None if nobody gives it now."""
        ...


class NoSource:
    """For a store that stands alone."""

    def chunk(self, digest: Digest) -> bytes | None:
        return None

    def manifest(self, digest: Digest) -> bytes | None:
        return None


def keep_evidence(folder: Path, digest: Digest, data: bytes) -> None:
    """Puts damaged bytes aside, to show what the disk does; a full disk keeps none."""
    with suppress(OSError):
        (folder / digest.hex()).write_bytes(data)
        kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MOST_EVIDENCE]:
            path.unlink(missing_ok=True)
