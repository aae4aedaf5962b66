"""Decides who is asked for which part of a tree that several peers bring at the same time. Pure.

Whoever has the whole tree is a *holder*; whoever brings it at the same time as we do is a *taker*.
The tree is cut into pieces that are the same for all takers, and each piece belongs to one of them,
by a hash that all compute alike: it alone asks a holder for it, and the others wait until they can
have it from that taker. So the holders send each piece once, however many take it.

Nobody waits for ever: a taker from which nothing comes for a while is not reckoned with any more,
and its pieces belong to others. As everybody asks for its own pieces first, somebody always moves.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId

PIECES = 64
SMALLEST_BYTES = 1 << 20
LARGEST_BYTES = 8 << 20
"""A tree is cut into about 64 pieces of these sizes. Smaller: takers share sooner; larger: fewer
calls, of which a peer may make 200 a second."""

PATIENCE_SECONDS = 5.0
"""A taker from which nothing comes for so long, whatever it says to have, is reckoned with no more;
or for three times as long as a holder lets us wait for a piece."""


@frozen
class Piece:
    """Chunks that are asked for together.

    Attributes:
        number: Its place in the tree, the same for every taker.
        name: The first chunk that lies there, the same for every taker.
        digests: Those of its chunks that are not here.
    """

    number: int
    name: Digest
    digests: tuple[Digest, ...]
    size_bytes: int

    @property
    def ends(self) -> tuple[Digest, ...]:
        """Who has these has most likely all of it."""
        return tuple(dict.fromkeys((self.digests[0], self.digests[-1])))


def cut(sizes: Mapping[Digest, int], lacking: Collection[Digest]) -> list[Piece]:
    """The pieces of a tree of which something is lacking, from all its chunks in order."""
    wanted = min(max(sum(sizes.values()) // PIECES, SMALLEST_BYTES), LARGEST_BYTES)
    missing = frozenset(lacking)
    pieces: list[Piece] = []
    digests: list[Digest] = []
    size, number = 0, 0
    for digest, length in sizes.items():
        digests.append(digest)
        size += length
        if size >= wanted:
            pieces.append(_piece(number, digests, missing, sizes))
            digests, size, number = [], 0, number + 1
    if digests:
        pieces.append(_piece(number, digests, missing, sizes))
    return [piece for piece in pieces if piece.digests]


def _piece(
    number: int, digests: Sequence[Digest], missing: frozenset[Digest], sizes: Mapping[Digest, int]
) -> Piece:
    lacking = tuple(digest for digest in digests if digest in missing)
    return Piece(number, digests[0], lacking, sum(sizes[digest] for digest in lacking))


class Sharing:
    """What one taker asks whom. Give it the time; it never goes back.

    Args:
        own: This taker.
        pieces: Those that it lacks; numbers are their names here.
    """

    def __init__(self, own: PeerId, pieces: Sequence[Piece]) -> None:
        self._own = own
        self._pieces = {piece.number: piece for piece in pieces}
        # First what is most likely to belong to us, whoever else takes part: what is asked for
        # before the others are known is hardly what they ask for.
        self._order = sorted(self._pieces, key=lambda n: self._rank(n, own), reverse=True)
        self._open = set(self._pieces)
        self._asked: set[int] = set()
        self._since: dict[int, float] = {}
        self._longest = 0.0
        self._gained: dict[PeerId, float] = {}
        self._has: dict[PeerId, set[int]] = {}
        self._lacks: dict[PeerId, set[int]] = {}

    @property
    def done(self) -> bool:
        """Whether everything is here."""
        return not self._open and not self._asked

    @property
    def lacking(self) -> list[Piece]:
        """Pieces that nobody was asked for."""
        return [self._pieces[number] for number in sorted(self._open)]

    @property
    def takers(self) -> frozenset[PeerId]:
        """The others who bring it and were not given up."""
        return frozenset(self._gained)

    def joined(self, takers: Iterable[PeerId], now: float) -> None:
        """These bring it too."""
        for peer in takers:
            if peer != self._own:
                self._gained.setdefault(peer, now)
                self._has.setdefault(peer, set())
                self._lacks.setdefault(peer, set())

    def given_up(self, taker: PeerId) -> None:
        """It does not answer, or gave what it should not."""
        self._gained.pop(taker, None)
        self._has.pop(taker, None)
        self._lacks.pop(taker, None)

    def has(self, taker: PeerId, numbers: Iterable[int]) -> None:
        """It says that it has these of the pieces that we lack, and no others."""
        if taker in self._has:
            self._has[taker] = set(numbers) - self._lacks[taker]

    def lacks(self, taker: PeerId, piece: Piece) -> None:
        """It did not have a piece that it said it has: it is asked for that one no more."""
        if taker in self._has:
            self._lacks[taker].add(piece.number)
            self._has[taker].discard(piece.number)

    def from_taker(self, taker: PeerId) -> Piece | None:
        """What to ask a taker for now: its own pieces first."""
        there = self._has.get(taker, set()) & self._open
        if not there:
            return None
        return self._ask(min(there, key=lambda n: (self._owner(n, ()) != taker, n)))

    def from_holder(self, now: float) -> Piece | None:
        """What to ask a holder for now; None while everything is somebody else's to bring."""
        longest = max([self._longest, *(now - since for since in self._since.values())])
        patience = max(PATIENCE_SECONDS, 3 * longest)
        late = [peer for peer, at in self._gained.items() if now - at > patience]
        on_time = [has for peer, has in self._has.items() if peer not in late]
        coming = set[int]().union(*on_time)
        for number in self._order:
            mine = number in self._open and number not in coming
            if mine and self._owner(number, late) == self._own:
                self._since[number] = now
                return self._ask(number)
        return None

    def came(self, piece: Piece, taker: PeerId | None, now: float) -> None:
        """A piece is here, from a taker or a holder."""
        self._asked.discard(piece.number)
        if taker is not None and taker in self._gained:
            self._gained[taker] = now
        elif taker is None:
            self._longest = max(self._longest, now - self._since.pop(piece.number, now))

    def failed(self, piece: Piece) -> None:
        """It did not come: others are asked."""
        self._asked.discard(piece.number)
        self._since.pop(piece.number, None)
        self._open.add(piece.number)

    def _ask(self, number: int) -> Piece:
        self._open.discard(number)
        self._asked.add(number)
        return self._pieces[number]

    def _owner(self, number: int, without: Sequence[PeerId]) -> PeerId:
        others = (
            peer for peer in self._gained if peer not in without and number not in self._lacks[peer]
        )
        return max((self._own, *others), key=lambda peer: self._rank(number, peer))

    def _rank(self, number: int, peer: PeerId) -> bytes:
        return digest_of(self._pieces[number].name + peer.encode())
