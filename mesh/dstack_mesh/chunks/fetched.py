"""What became of a tree that was brought straight into files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was written.

    Attributes:
        received_bytes: How much of it came over the network.
        here_bytes: How much of it lay at the target already.
        path: Where it is: the folder, or the file if one was asked for.
        left_out: Links that lead out of what was asked for.
    """

    files: int
    size_bytes: int
    received_bytes: int
    here_bytes: int
    path: Path
    left_out: tuple[str, ...] = ()
