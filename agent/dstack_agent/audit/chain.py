"""What makes lines one log: each names the one before it by its digest. Pure.

Whoever changes, cuts out or adds lines leaves a line that names another one than stands before it.
The head, which is kept beside them, names the last line: it tells what was cut off at the end.
Whoever may write the files can write all of them anew; a head that was noted elsewhere tells that.
"""

import hashlib
from collections.abc import Iterator, Sequence

from dstack_agent.audit.entry import Line, line_of
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen


@frozen
class Head:
    """The last line of a log: its number and its digest."""

    seq: int
    digest: str


@frozen
class Segment:
    """A file of the log."""

    name: str
    data: bytes


@frozen
class Wrong:
    """Something is wrong with a log.

    Attributes:
        line: In the file, counted from 1; 0 for what concerns no line.
    """

    file: str
    line: int
    message: str


@frozen
class Checked:
    """A log that was read.

    Attributes:
        lines: Those that can be read.
        wrong: What is wrong, in order; empty for a whole log.
        torn: Whether its last line is half written: its writer died then, or writes now.
    """

    lines: tuple[Line, ...]
    wrong: tuple[Wrong, ...]
    torn: bool
    head: Head | None


@frozen
class _Place:
    """A whole line and where it stands."""

    file: str
    number: int
    encoded: bytes


def digest_of(encoded: bytes) -> str:
    """What a line is called by the next one; `encoded` without its end."""
    return hashlib.sha256(encoded.removesuffix(b"\n")).hexdigest()


def check(segments: Sequence[Segment], head: Head | None, most: int) -> Checked:
    """Reads a log and finds what is wrong with it.

    Args:
        segments: All its files, oldest first.
        head: What is kept beside them; None if nothing is.
        most: Files that are kept; fewer have the log's beginning.
    """
    lines: list[Line] = []
    wrong = list(_torn_inside(segments))
    before: tuple[Line, _Place] | None = None
    for place in _places(segments):
        try:
            line = line_of(place.encoded)
        except Invalid as error:
            wrong.append(Wrong(place.file, place.number, f"cannot be read: {error.why}"))
            continue
        if before is not None:
            wrong += _misfits(before, line, place)
        elif line.seq > 1 and len(segments) < most:
            wrong.append(_missing(place, 1, line.seq - 1))
        lines.append(line)
        before = (line, place)
    wrong += _misfits_at_end(before, head)
    torn = bool(segments) and _torn(segments[-1])
    last = None if before is None else Head(before[0].seq, digest_of(before[1].encoded))
    return Checked(tuple(lines), tuple(wrong), torn, last)


def _torn(segment: Segment) -> bool:
    return bool(segment.data) and not segment.data.endswith(b"\n")


def _torn_inside(segments: Sequence[Segment]) -> Iterator[Wrong]:
    for segment in segments[:-1]:
        if _torn(segment):
            number = segment.data.count(b"\n") + 1
            yield Wrong(segment.name, number, "is cut, and lines follow in the next file")


def _places(segments: Sequence[Segment]) -> Iterator[_Place]:
    for segment in segments:
        whole = segment.data[: segment.data.rfind(b"\n") + 1]
        for number, encoded in enumerate(whole.splitlines(), start=1):
            yield _Place(segment.name, number, encoded)


def _misfits(before: tuple[Line, _Place], line: Line, place: _Place) -> Iterator[Wrong]:
    """What is wrong between two lines that stand one after the other."""
    earlier, its_place = before
    if line.seq > earlier.seq + 1:
        yield _missing(place, earlier.seq + 1, line.seq - 1)
    elif line.seq <= earlier.seq:
        message = (
            f"has the number {line.seq} after {earlier.seq}: lines were moved or written twice"
        )
        yield Wrong(place.file, place.number, message)
    elif line.prev != digest_of(its_place.encoded):
        message = f"was altered: it is not what line {line.seq} calls the one before it"
        yield Wrong(its_place.file, its_place.number, message)


def _missing(place: _Place, first: int, last: int) -> Wrong:
    which = f"line {first} is" if first == last else f"lines {first} to {last} are"
    return Wrong(place.file, place.number, f"{which} missing before it")


def _misfits_at_end(last: tuple[Line, _Place] | None, head: Head | None) -> Iterator[Wrong]:
    """What the head says of the end. A writer that was killed wrote a line more than it says."""
    if last is None:
        if head is not None:
            yield Wrong("head", 0, f"names line {head.seq}, and there is none")
        return
    line, place = last
    if head is None:
        if line.seq > 1:
            yield Wrong(
                "head", 0, "is missing: nobody can say whether lines are cut off at the end"
            )
    elif head.seq > line.seq:
        first, count = line.seq + 1, head.seq - line.seq
        which = f"line {first} is" if count == 1 else f"lines {first} to {head.seq} are"
        yield Wrong(place.file, place.number, f"is the last one, and {which} missing after it")
    elif head.seq == line.seq and head.digest != digest_of(place.encoded):
        yield Wrong(place.file, place.number, "was altered: it is not what the head calls it")
    elif head.seq < line.seq - 1:
        message = f"was added by somebody else: the head names line {head.seq} as the last one"
        yield Wrong(place.file, place.number, message)
