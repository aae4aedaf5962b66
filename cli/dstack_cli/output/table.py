"""Tables that fit the width: columns go, then cells are shortened, but names and states never."""

from collections.abc import Sequence

from dstack_cli.output.escapes import plain
from dstack_mesh.frozen import frozen

GAP = "  "
SHORTEST = 6


@frozen
class Column:
    """A column.

    Attributes:
        title: Its header, never cut.
        rank: 0 is never cut nor left out; of the others the highest rank goes first.
    """

    title: str
    rank: int = 0


@frozen
class Table:
    """Rows of cells below columns. A cell may have several lines."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def draw(table: Table, width: int | None) -> list[str]:
    """The lines of a table, at most `width` wide if what must stay allows it; None: any width."""
    kept = _fitting(table, width)
    cells = [[column.title for _, column in kept]]
    for row in table.rows:
        cells += _lines_of([row[index] for index, _ in kept])
    widths = [max(len(line[place]) for line in cells) for place in range(len(kept))]
    widths = _shortened(widths, [column for _, column in kept], width)
    return [_joined(line, widths) for line in cells]


def _lines_of(row: Sequence[str]) -> list[list[str]]:
    split = [plain(cell).split("\n") for cell in row]
    height = max((len(lines) for lines in split), default=1)
    return [[lines[at] if at < len(lines) else "" for lines in split] for at in range(height)]


def _natural(table: Table, index: int, floor: bool) -> int:
    """The width a column wants, or the least it can be cut to."""
    column = table.columns[index]
    lines = [line for row in table.rows for line in plain(row[index]).split("\n")]
    wanted = max([len(column.title), *(len(line) for line in lines)])
    if floor and column.rank:
        return min(wanted, max(len(column.title), SHORTEST))
    return wanted


def _fitting(table: Table, width: int | None) -> list[tuple[int, Column]]:
    kept = list(enumerate(table.columns))
    if width is None:
        return kept
    while True:
        least = sum(_natural(table, index, floor=True) for index, _ in kept)
        droppable = [pair for pair in kept if pair[1].rank]
        if least + len(GAP) * (len(kept) - 1) <= width or not droppable:
            return kept
        kept.remove(max(droppable, key=lambda pair: (pair[1].rank, pair[0])))


def _shortened(widths: list[int], columns: Sequence[Column], width: int | None) -> list[int]:
    if width is None:
        return widths
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        spare = [
            (widths[place], column.rank, place)
            for place, column in enumerate(columns)
            if column.rank and widths[place] > max(len(column.title), SHORTEST)
        ]
        if not spare:
            break
        widths[max(spare)[2]] -= 1
    return widths


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    fitted = [
        (cell if len(cell) <= wide else cell[: wide - 1] + "…").ljust(wide)
        for cell, wide in zip(cells, widths, strict=True)
    ]
    return GAP.join(fitted).rstrip()
