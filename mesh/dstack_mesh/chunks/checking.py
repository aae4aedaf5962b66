"""Holds a tree against the chunks that are here, a few thousand at a time."""

from itertools import chain, islice

from dstack_mesh.chunks.index import Index
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.ids import Digest

BATCH = 16_384


def check_chunks(index: Index, manifest: Manifest) -> None:
    """Returns if all chunks are here, each as long as the tree says; they stay for a while.

    Raises:
        Refused: Some are not here.
        Invalid: The tree says a wrong size of one.
    """
    files = (entry for entry in manifest.entries if isinstance(entry, FileEntry))
    uses = chain.from_iterable(entry.chunks() for entry in files)
    lacking: set[Digest] = set()
    while batch := dict.fromkeys(islice(uses, BATCH)):
        asked = {digest for digest, _ in batch}
        index.spare(asked)
        lengths = index.lengths(asked)
        lacking.update(asked.difference(lengths))
        for digest, size in batch:
            if lengths.get(digest, size) != size:
                raise Invalid(
                    "A list of files says a wrong size.",
                    f"{digest.hex()} has {lengths[digest]:,} bytes, not {size:,}.",
                )
    if lacking:
        raise Refused(
            "A list of files came before its bytes.",
            f"{len(lacking):,} chunks are missing, as {min(lacking).hex()}.",
        )
