"""What is said of one connection."""

from dstack_mesh.frozen import frozen

PIECE_BYTES = 64 * 1024
"""Most bytes of one frame."""


@frozen
class Made:
    """The connection was made."""


@frozen
class Data:
    """The next bytes."""

    data: bytes


@frozen
class Credit:
    """So many bytes more may be sent."""

    count: int


@frozen
class End:
    """No more bytes come from this side."""


@frozen
class Broken:
    """It is over both ways; `why` is for people and may be empty."""

    why: str = ""


Frame = Made | Data | Credit | End | Broken
