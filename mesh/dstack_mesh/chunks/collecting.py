"""Collects what nothing refers to any more: trees, then chunks, then packs.

1. A tree that no root names goes once it was not asked for during `Rules.unused_seconds`.
2. A chunk that no tree names is condemned. It stays readable, and whoever is told that it is here
   spares it; else it is swept once it has been condemned for a grace and no session is older.
3. A pack of which little is alive is written again and removed; what died with its writer is cut.

Safe at any moment beside any number of readers and writers in any process, and if it is killed:
each step leaves a valid store. Work is done in small pieces with `pace` between them. Nothing is
held in memory but one manifest and the roots.
"""

import fcntl
import os
from collections.abc import Callable, Generator, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from dstack_mesh.chunks.compacting import tidy_packs
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.chunks.room import check_reserve, in_words, trouble
from dstack_mesh.chunks.sessions import horizon
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.sweeping import Sweep
from dstack_mesh.faults import Busy, Damaged, Invalid, Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest

DAY_SECONDS = 86_400.0

LITTER_SECONDS = 7 * DAY_SECONDS
"""How long damaged manifests and drafts of writers that died stay as evidence."""


@frozen
class Rules:
    """What may go.

    Attributes:
        unused_seconds: How long a tree that nothing refers to stays after it was last asked for.
            Longer: less travels again; shorter: less disk.
            Where the disk or the quota of the store is used up, it is but a grace.
    """

    unused_seconds: float = 7 * DAY_SECONDS


@frozen
class Collected:
    """What went, or would go.

    Attributes:
        trees: Manifests that nothing refers to.
        chunks: Chunks that no tree names and that were swept.
        waiting_bytes: Chunks that no tree names and that go after a grace.
        freed_bytes: What the disk got back.
        store_bytes: What the store takes now.
        blocked: Why chunks had to stay; "" if they had not.
    """

    trees: int = 0
    chunks: int = 0
    chunk_bytes: int = 0
    waiting_bytes: int = 0
    packs: int = 0
    freed_bytes: int = 0
    store_bytes: int = 0
    blocked: str = ""


def no_pace() -> None:
    """Goes on at once."""


class Collector:
    """Collects the garbage of one store. For one thread at a time.

    Args:
        roots: The trees that must stay, asked for at the beginning of each collection. Trees that
            are kept for somebody (`ChunkStore.keep`) need not be among them.
        pace: Called between small pieces of work; may sleep, and may raise to stop.
    """

    def __init__(
        self,
        store: ChunkStore,
        roots: Callable[[], Set[Digest]],
        rules: Rules | None = None,
        pace: Callable[[], None] = no_pace,
    ) -> None:
        self._store = store
        self._roots = roots
        self._rules = rules or Rules()
        self._pace = pace

    def plan(self) -> Collected:
        """What `collect` would take, now or after a grace. Changes nothing."""
        before = horizon(self._store.sessions, self._store.grace_seconds)
        roots = self._all_roots()
        going = {digest for digest, _ in self._spare_trees(roots, before)}
        with Sweep(self._store.folder) as sweep:
            blocked = self._mark(sweep, roots, going)
            chunks, size = sweep.unreached()
        return Collected(
            trees=len(going),
            chunks=0 if blocked else chunks,
            chunk_bytes=0 if blocked else size,
            store_bytes=self._store.size_bytes(),
            blocked=blocked,
        )

    def collect(self) -> Collected:
        """Takes what may go.

        Raises:
            Busy: Another process collects here now, or the disk is full.
        """
        with _alone(self._store.folder), in_words(self._store.folder):
            before = horizon(self._store.sessions, self._store.grace_seconds)
            roots = self._all_roots()
            trees = sum(
                self._drop_tree(digest, since) for digest, since in self._spare_trees(roots, before)
            )
            for path in self._store.shelf.litter(before - LITTER_SECONDS):
                path.unlink(missing_ok=True)
            size = self._store.size_bytes()
            with Sweep(self._store.folder) as sweep:
                blocked = self._mark(sweep, roots, frozenset())
                chunks, swept, waiting = (0, 0, 0) if blocked else self._sweep(sweep, before)
            packs = tidy_packs(self._store, before, self._pace)
            left = self._store.size_bytes()
            freed = max(0, size - left)
            return Collected(trees, chunks, swept, waiting, packs, freed, left, blocked)

    def _all_roots(self) -> set[Digest]:
        return {*self._roots(), *self._store.shelf.roots()}

    def _spare_trees(self, roots: Set[Digest], before: float) -> Iterator[tuple[Digest, float]]:
        """Trees that may go, and since when they must not have been asked for."""
        since = before if self._is_tight() else before - self._rules.unused_seconds
        for digest, used in self._store.shelf.all():
            if used < since and digest not in roots:
                yield digest, since

    def _is_tight(self) -> bool:
        """Whether the disk or the quota is used up."""
        try:
            self._store.check_quota()
            check_reserve(self._store.folder)
        except Busy:
            return True
        return False

    def _drop_tree(self, digest: Digest, since: float) -> bool:
        """Removes a manifest, unless somebody asks for it at this moment."""
        self._pace()
        path = self._store.shelf.path(digest)
        aside = path.with_suffix(".going")
        with suppress(FileNotFoundError):
            path.rename(aside)
            if aside.stat().st_mtime >= since:
                aside.rename(path)
                return False
            aside.unlink()
            return True
        return False

    def _mark(self, sweep: Sweep, roots: Set[Digest], going: Set[Digest]) -> str:
        """Writes down what trees name; why that cannot be known, if so."""
        for digest, _ in self._store.shelf.all():
            if digest in going:
                continue
            try:
                sweep.reach(self._read(digest).chunk_digests())
            except Missing:
                continue
            except (Damaged, Invalid) as damaged:
                if digest in roots:
                    return str(damaged)
            self._pace()
        for path in self._store.shelf.manifests.glob("*.damaged"):
            if bytes.fromhex(path.stem) in roots and not path.with_suffix("").exists():
                return f"The list of files {path.stem} is damaged; its chunks stay."
        return ""

    def _read(self, digest: Digest) -> Manifest:
        """A manifest, without asking that it stays."""
        try:
            return Manifest.decode(self._store.shelf.read(digest))
        except Damaged:
            encoded = self._store.mend_manifest(digest)
            if encoded is None:
                raise
            return Manifest.decode(encoded)

    def _sweep(self, sweep: Sweep, before: float) -> tuple[int, int, int]:
        chunks = swept = 0
        for _ in sweep.condemn():
            self._pace()
        for count, size in sweep.sweep(before):
            chunks, swept = chunks + count, swept + size
            self._pace()
        return chunks, swept, sweep.waiting()


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One collection at a time."""
    try:
        file = os.open(folder / "collect.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise trouble(error, folder) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"Another process is collecting in {folder}.", "", "Wait for it.") from error
    finally:
        os.close(file)
