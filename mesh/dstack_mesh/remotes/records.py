"""What is said in a remote, of runs and of tags: each record for ever, and the same for everybody.

What the content of a record means is not known here. Of two records about one thing neither
replaces the other: whoever reads takes both and puts them together.
"""

from dstack_mesh.remotes.crew import Crew
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.naming import is_content_of, is_record, record_key, records_of
from dstack_mesh.remotes.port import ObjectStore

RECORD_BYTES = 16 << 20
"""No record is larger."""


class Records:
    """The records of one remote. For one thread at a time."""

    def __init__(self, objects: ObjectStore, known: Known, crew: Crew) -> None:
        self._objects = objects
        self._known = known
        self._crew = crew

    def add(self, kind: str, name: str, content: bytes) -> bool:
        """Says something for everybody; False if it was said before in the same words."""
        key = record_key(kind, name, content)
        is_new = self._objects.create(key, content)
        self._known.keep_record(key, content)
        return is_new

    def hear(self, kind: str) -> None:
        """Reads what was not read before, and forgets what is gone."""
        prefix = records_of(kind)
        there = {one.key for one in self._objects.listing(prefix) if is_record(one.key)}
        before = set(self._known.records(prefix))
        self._known.forget_records(before - there)
        for key, content in self._crew.each(self._read, sorted(there - before)):
            if is_content_of(key, content):  # else nobody of us wrote it
                self._known.keep_record(key, content)

    def heard(self, kind: str) -> list[bytes]:
        """What was heard the last time, without asking."""
        return list(self._known.records(records_of(kind)).values())

    def _read(self, key: str) -> tuple[str, bytes]:
        return key, self._objects.get(key, 0, RECORD_BYTES)
