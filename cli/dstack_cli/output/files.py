"""What a run kept, as tables and as JSON."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

from dstack_cli.kept import KeptArtifact
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import ago, rfc3339, size
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import Entry, FileEntry, FolderEntry, LinkEntry, Manifest
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId

SCHEMA = "dstack.files/v1"


class Holders(Protocol):
    """Agents that have copies."""

    def name(self, peer_id: PeerId) -> str:
        """What people call one."""
        ...

    def reached(self, peer_id: PeerId) -> bool:
        """Whether it answers, as far as is known."""
        ...


@frozen
class Shelf:
    """An artifact, its files, and the part of it that is listed; "" is all.

    Attributes:
        manifest: None while nobody answers who has it: then the artifact is one line.
    """

    artifact: KeptArtifact
    manifest: Manifest | None
    inside: str = ""


@frozen
class _Line:
    """A file, or a folder of which only the total is shown."""

    path: str
    size_bytes: int
    mode: str
    digest: str = ""
    changing: bool = False

    @property
    def shown(self) -> str:
        """What people read: where a link points to, and that a file was being written."""
        target = f" {self.mode}" if self.mode.startswith("->") else ""
        return f"{self.path}{target}{' (changing)' if self.changing else ''}"


def partial_lines(artifacts: Sequence[KeptArtifact], now: datetime) -> list[str]:
    """A line for each artifact that is no job's last word."""
    return [f"{one.path} is {_state_text(one, now)}" for one in artifacts if not one.complete]


def files_listing(shelves: Sequence[Shelf], recursive: bool, holders: Holders) -> Listing:
    """Every file, or without `recursive` only what is directly in each artifact."""
    rows: list[tuple[str, ...]] = []
    items: list[dict[str, Json]] = []
    for shelf in shelves:
        lines = list(_files(shelf))
        for line in lines if recursive else _top(lines, shelf.inside):
            rows.append((shelf.artifact.path, line.shown, size(line.size_bytes)))
            items.append(_item(shelf.artifact, line, holders))
    return Listing(
        schema=SCHEMA,
        items=items,
        table=Table((Column("PATH"), Column("FILE"), Column("SIZE", 1)), tuple(rows)),
        names=[str(item["path"]) for item in items],
        empty="Nothing was kept.",
    )


def totals_listing(artifacts: Sequence[KeptArtifact], holders: Holders) -> Listing:
    """One line for each artifact."""
    now = datetime.now(UTC)
    return Listing(
        schema=SCHEMA,
        items=[_total(artifact, holders) for artifact in artifacts],
        table=Table(
            (
                Column("ARTIFACT"),
                Column("SIZE"),
                Column("FILES"),
                Column("STATE"),
                Column("COPIES", 1),
            ),
            tuple(
                (
                    artifact.path,
                    size(artifact.size_bytes),
                    str(artifact.files),
                    _state_text(artifact, now),
                    ", ".join(
                        holders.name(peer) + ("" if holders.reached(peer) else " (away)")
                        for peer in artifact.holders
                    ),
                )
                for artifact in artifacts
            ),
        ),
        names=[artifact.path for artifact in artifacts],
        empty="Nothing was kept.",
    )


def _files(shelf: Shelf) -> Iterator[_Line]:
    if shelf.manifest is None:
        yield _Line("", shelf.artifact.size_bytes, "0755", f"tree:{shelf.artifact.digest.hex()}")
        return
    for entry in shelf.manifest.entries:
        path, inside = entry.path, shelf.inside
        if not inside or path == inside or path.startswith(f"{inside}/"):
            yield _line(entry, path in shelf.artifact.changing)


def _line(entry: Entry, changing: bool) -> _Line:
    match entry:
        case FileEntry():
            mode = "0755" if entry.executable else "0644"
            return _Line(entry.path, entry.size_bytes, mode, _digest(entry), changing)
        case LinkEntry():
            return _Line(entry.path, len(entry.target), f"-> {entry.target}")
        case FolderEntry():
            return _Line(f"{entry.path}/", 0, "0755")


def _digest(entry: FileEntry) -> str:
    """BLAKE3 of the file, or of the digests of its chunks where there are several."""
    if len(entry.sizes) > 1:
        return f"chunks:{digest_of(entry.digests).hex()}"
    return f"blake3:{(entry.digests or digest_of(b'')).hex()}"


def _top(lines: Sequence[_Line], inside: str) -> list[_Line]:
    """Files directly in a folder, and each folder in it with its total."""
    found: dict[str, _Line] = {}
    start = len(inside) + 1 if inside else 0
    for line in lines:
        head, slash, rest = line.path[start:].partition("/")
        if line.path == inside or not slash or not rest:
            found[line.path] = line
            continue
        path = f"{line.path[:start]}{head}/"
        before = found.get(path)
        total = line.size_bytes + (before.size_bytes if before is not None else 0)
        found[path] = _Line(path, total, "0755")
    return list(found.values())


def _item(artifact: KeptArtifact, line: _Line, holders: Holders) -> dict[str, Json]:
    return {
        "path": f"{artifact.path}/{line.path}",
        "size": line.size_bytes,
        "mode": line.mode,
        "digest": line.digest or None,
        "changing": line.changing,
        "copies": _copies(artifact, holders),
        "unreachable": _unreachable(artifact, holders),
        "state": _state(artifact),
        "saved_at": rfc3339(artifact.at) if artifact.at is not None else None,
    }


def _total(artifact: KeptArtifact, holders: Holders) -> dict[str, Json]:
    return {
        "path": artifact.path,
        "size": artifact.size_bytes,
        "files": artifact.files,
        "digest": f"tree:{artifact.digest.hex()}",
        "copies": _copies(artifact, holders),
        "unreachable": _unreachable(artifact, holders),
        "state": _state(artifact),
        "saved_at": rfc3339(artifact.at) if artifact.at is not None else None,
    }


def _copies(artifact: KeptArtifact, holders: Holders) -> list[str]:
    return [holders.name(peer) for peer in artifact.holders]


def _unreachable(artifact: KeptArtifact, holders: Holders) -> list[str]:
    return [holders.name(peer) for peer in artifact.holders if not holders.reached(peer)]


def _state(artifact: KeptArtifact) -> str:
    return "complete" if artifact.complete else "partial"


def _state_text(artifact: KeptArtifact, now: datetime) -> str:
    """The state; of a partial one also when it was looked at."""
    if artifact.complete or artifact.at is None:
        return _state(artifact)
    return f"{_state(artifact)}, saved {ago(artifact.at, now)}"
