"""Values that nobody else has: where one of them is found, a secret got out."""

import base64
import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

LARGEST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Canaries:
    """Secrets by name, and how to look for them."""

    values: dict[str, str]

    @classmethod
    def hatched(cls, chance: random.Random, count: int, prefix: str = "CANARY") -> "Canaries":
        """New ones, some with quotes, blanks, several lines or letters beyond ASCII."""
        made: dict[str, str] = {}
        for number in range(count):
            core = f"{chance.getrandbits(96):024x}"
            shapes = (
                core,
                f"{core[:9]}'\"$ {core[9:]}",
                f"-----{core}\n{core[::-1]}\n",
                f"é{core}",
            )
            made[f"{prefix}_{number}"] = chance.choice(shapes)
        return cls(made)

    def spellings(self) -> dict[bytes, str]:
        """What is looked for, and the name of the secret that it gives away."""
        found: dict[bytes, str] = {}
        for name, value in self.values.items():
            for line in {value, *value.splitlines()}:
                plain = line.encode()
                forms = (plain, base64.b64encode(plain).rstrip(b"="), quote(line, safe="").encode())
                for form in (*forms, json.dumps(line)[1:-1].encode()):
                    found[form] = name
        return found

    def in_bytes(self, data: bytes) -> set[str]:
        """Names of those that are in some bytes."""
        return {name for form, name in self.spellings().items() if form in data}

    def in_folders(self, folders: Iterable[Path], without: Iterable[Path] = ()) -> set[str]:
        """Where in folders they are, as "NAME in FILE"; databases and packs of chunks included."""
        left_out, forms = tuple(without), self.spellings()
        found: set[str] = set()
        for path in (path for folder in folders for path in _files(folder)):
            if not any(path.is_relative_to(each) for each in left_out):
                data = _content(path)
                found |= {f"{name} in {path}" for form, name in forms.items() if form in data}
        return found

    def in_arguments(self) -> set[str]:
        """The same for the arguments of every process."""
        return self._in_processes("cmdline")

    def in_environments_but(self, jobs: Iterable[bytes]) -> set[str]:
        """The same for the first environment of every process that is no job, told by a mark."""
        return self._in_processes("environ", tuple(jobs))

    def _in_processes(self, file: str, but: tuple[bytes, ...] = ()) -> set[str]:
        forms, found = self.spellings(), set[str]()
        for path in Path("/proc").glob(f"[0-9]*/{file}"):
            data = _content(path)
            if not any(mark in data for mark in but):
                found |= {f"{name} in {path}" for form, name in forms.items() if form in data}
        return found


def memory_folders() -> list[Path]:
    """Where secrets of jobs are while these run."""
    return [path for path in (Path("/dev/shm"), Path(f"/run/user/{os.getuid()}")) if path.exists()]


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES)
    except OSError:
        return b""
