"""What is kept of files that were being brought when that broke off."""

import time
from contextlib import suppress
from itertools import takewhile

from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import MeshError

RESCUE_SECONDS = 5.0
"""What came of files that are not whole is kept for so long after a failure. Longer: less travels
again; shorter: who broke it off waits less."""


def rescue(receiver: Receiver, store: ChunkStore) -> None:
    """Has whole files stay, and takes into a store what others have already."""
    until = time.monotonic() + RESCUE_SECONDS
    with suppress(MeshError):  # a full disk, most likely: it travels again
        receiver.settle()
        store.put(takewhile(lambda _: time.monotonic() < until, receiver.rescued()))
