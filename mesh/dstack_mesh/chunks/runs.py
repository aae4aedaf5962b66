"""Runs of chunks: what lies side by side in a pack is read at once."""

from collections.abc import Iterator, Sequence

from dstack_mesh.chunks.packs import Place
from dstack_mesh.faults import Missing
from dstack_mesh.ids import Digest


def side_by_side(
    digests: Sequence[Digest], places: dict[Digest, Place], limit: int
) -> Iterator[list[tuple[Digest, Place]]]:
    """Groups chunks that lie side by side, in the order asked for. Raises Missing if one has no
    place."""
    run: list[tuple[Digest, Place]] = []
    end = 0
    size = 0
    for digest in digests:
        place = places.get(digest)
        if place is None:
            raise missing(digest)
        apart = not run or place.pack != run[0][1].pack or place.offset != end
        if apart or size + place.length > limit:
            if run:
                yield run
            run, size = [], 0
        run.append((digest, place))
        end = place.offset + place.length
        size += place.length
    if run:
        yield run


def missing(digest: Digest) -> Missing:
    """What is said of a chunk that is not here."""
    return Missing("A chunk is not here.", digest.hex(), "Fetch it from another peer.")
