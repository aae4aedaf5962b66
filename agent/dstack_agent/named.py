"""Which runs names mean: an id, or the beginning of a name.

Names come from whoever asks, thousands at a time, and a run is looked for among them in a time that
hardly grows with their number: whoever asks for much must not hold up everybody else.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable

from dstack_mesh.frozen import frozen

_LAST = "char(127)"
"""Behind every character that the name of a run may have."""

MEANT = (
    "run_id IN (SELECT value FROM json_each(?) UNION"
    " SELECT one.run_id FROM json_each(?) AS begin CROSS JOIN {table} AS one"
    f" WHERE one.run_name >= begin.value AND one.run_name < begin.value || {_LAST})"
)
"""SQL that says whether a row of a table is meant; its values are those of `Named.values`."""


@frozen
class Named:
    """Names, ready to be looked in.

    Attributes:
        ids: All of them: each may be an id.
        beginnings: In order, and none begins with another one: that one means what it means.
    """

    ids: frozenset[str]
    beginnings: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Named":
        """Made ready."""
        ids = frozenset(name for name in names if "\0" not in name)  # for SQL it ends there
        beginnings: list[str] = []
        for name in sorted(ids):
            if not beginnings or not name.startswith(beginnings[-1]):
                beginnings.append(name)
        return cls(ids, tuple(beginnings))

    @property
    def values(self) -> tuple[str, str]:
        """For SQL."""
        return json.dumps(sorted(self.ids)), json.dumps(self.beginnings)

    def means(self, run_id: str, run_name: str) -> bool:
        """Whether a run is among those that are meant."""
        place = bisect_right(self.beginnings, run_name)
        begins = place > 0 and run_name.startswith(self.beginnings[place - 1])
        return begins or run_id in self.ids
