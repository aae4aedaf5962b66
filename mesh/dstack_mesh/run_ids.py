"""Ids of runs: each sorts by the time of submission and says whose run it is.

Ids are made by whoever submits, so nothing but the id itself keeps another peer from being first
under it somewhere. 60 of its 128 bits are a hash of the rest and of the submitter's peer id, which
is the hash of its key: to have a run's id for its own a peer would have to find a key that fits.
"""

from hashlib import sha256

from dstack_mesh.ids import PeerId, RunId

CHARACTERS = 26

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_CROCKFORD)}
_TIME_BITS, _CHANCE_BITS, _MARK_BITS = 48, 20, 60


def run_id(milliseconds: int, chance: int, submitter: PeerId) -> RunId:
    """An id of 26 characters: 48 bits of time, 20 of chance, 60 that mark it as a peer's.

    Args:
        milliseconds: Since 1970, at submission.
        chance: Tells runs apart that a peer submits within a millisecond.
        submitter: Empty for a home that has no key yet, whose owner alone uses it.
    """
    time = milliseconds & (1 << _TIME_BITS) - 1
    return _marked(time << _CHANCE_BITS | chance & (1 << _CHANCE_BITS) - 1, submitter)


def is_of(run: RunId, submitter: PeerId) -> bool:
    """Whether a run's id is one that this peer makes; one of a home without a key is nobody's."""
    if not submitter or len(run) != CHARACTERS or not _VALUES.keys() >= set(run):
        return False
    number = 0
    for character in run:
        number = number << 5 | _VALUES[character]
    return run == _marked(number >> _MARK_BITS, submitter)


def _marked(told: int, submitter: PeerId) -> RunId:
    said = f"run {told:017x} {submitter}"
    mark = int.from_bytes(sha256(said.encode()).digest()) >> 256 - _MARK_BITS
    number = told << _MARK_BITS | mark
    return RunId("".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5)))
