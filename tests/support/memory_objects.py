"""Objects in memory, as a remote sees them: the fake of `ObjectStore`, with troubles to order."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from dstack_mesh.faults import Missing
from dstack_mesh.remotes.port import NO_OBJECT, Stored


@dataclass(slots=True)
class MemoryObjects:
    """A bucket of its own; implements `port.ObjectStore`.

    Attributes:
        objects: What is there.
        before: Called before each operation with its name and key; may raise.
        conditional: Whether `create` really refuses.
        asked: Names and keys of the operations so far.
    """

    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    before: Callable[[str, str], None] = lambda operation, key: None
    conditional: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def where(self) -> str:
        return "s3://fake at memory"

    def put(self, key: str, data: bytes) -> None:
        self._ask("put", key)
        self.objects[key] = bytes(data)

    def create(self, key: str, data: bytes) -> bool:
        self._ask("create", key)
        with self._lock:
            if key in self.objects and self.conditional:
                return False
            self.objects[key] = bytes(data)
            return True

    def put_parts(self, key: str, parts: Iterable[bytes]) -> None:
        whole = b""
        for part in parts:
            self._ask("part", key)
            whole += part
        self._ask("complete", key)
        self.objects[key] = whole

    def get(self, key: str, begin: int = 0, length: int | None = None) -> bytes:
        self._ask("get", key)
        if key not in self.objects:
            raise Missing("There is no such object.", key, code=NO_OBJECT)
        end = None if length is None else begin + length
        return self.objects[key][begin:end]

    def listing(self, prefix: str) -> Iterator[Stored]:
        self._ask("listing", prefix)
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield Stored(key, len(self.objects[key]))

    def delete(self, key: str) -> None:
        self._ask("delete", key)
        self.objects.pop(key, None)

    def sweep(self, prefix: str, before: datetime) -> int:
        self._ask("sweep", prefix)
        return 0

    def _ask(self, operation: str, key: str) -> None:
        self.asked.append((operation, key))
        self.before(operation, key)
