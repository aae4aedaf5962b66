"""Holes of sparse files: runs of zeros that are neither read nor written, though they count.

The chunker cuts zeros at its largest size, always, so a hole is the same chunk again and again: the
tree of a sparse file is that of a file with its zeros written out. Whoever writes a file leaves
that chunk out. A hole stays one from twice that size on; a shorter one may become zeros.
"""

import errno
import os

from dstack_mesh.chunks.chunker import ZEROS
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.ids import Digest

HOLE_BYTES = len(ZEROS)
HOLE = digest_of(ZEROS)


def is_hole(digest: Digest, size: int) -> bool:
    """Whether a chunk is all zeros and need not be written."""
    return digest == HOLE and size == HOLE_BYTES


def hole_at(file: int, offset: int, size: int) -> int:
    """How many bytes of a hole follow in an open file of this size; 0 if that is not known."""
    try:
        return min(os.lseek(file, offset, os.SEEK_DATA), size) - offset
    except OSError as error:
        return max(size - offset, 0) if error.errno == errno.ENXIO else 0
