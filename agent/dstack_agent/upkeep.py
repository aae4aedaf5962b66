"""The chunk store of a home as its owner asks for it by command, beside an agent that may run."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from dstack_agent.caches import Caches
from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.environments.keeping import KeptEnvironments, Pruned
from dstack_agent.records import Records
from dstack_agent.roots import roots_of
from dstack_mesh.chunks.collecting import Collected, Collector
from dstack_mesh.chunks.scrubbing import Scrubbed, scrub
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import Digest

TELL_SECONDS = 2.0


def prune(home: Home, dry_run: bool) -> Collected:
    """Collects what no run of a home needs, or says what would go.

    Raises:
        Busy: Its agent does so now.
    """
    roots = asyncio.run(_roots(home))
    store = ChunkStore(home.chunks)
    try:
        collector = Collector(store, lambda: roots)
        return collector.plan() if dry_run else collector.collect()
    finally:
        store.close()


def prune_environments(home: Home, dry_run: bool) -> Pruned:
    """Removes what was installed for jobs and no job uses now, or says what would go."""
    return KeptEnvironments(home.environments, home.jobs).prune(dry_run)


def check_chunks(home: Home, tell: Callable[[str], None]) -> Scrubbed:
    """Reads everything that the store of a home holds, from disk, and says every 2 s how far it
    is."""
    store = ChunkStore(home.chunks)
    total, told = Scrubbed(), time.monotonic()
    try:
        size = store.size_bytes()
        for piece in scrub(store, anew=True):
            total += piece
            if time.monotonic() > told + TELL_SECONDS:
                tell(f"{total.size_bytes:,} of about {size:,} bytes read")
                told = time.monotonic()
        return total
    finally:
        store.close()


async def _roots(home: Home) -> set[Digest]:
    """What the runs need that the agent of a home knows; nothing where none ever ran."""
    path = home.state / "agent.db"
    if not path.exists():
        return set()
    database = Database(path)
    try:
        return await roots_of(Records(database), DrivenRuns(database), Caches(database))
    finally:
        database.close()


def pruned_shape(found: Collected, installed: Pruned, dry_run: bool) -> dict[str, object]:
    """The JSON of `dstack-runner prune`."""
    environments = {
        "environments": installed.environments,
        "environment_bytes": installed.size_bytes,
    }
    return {"schema": "dstack.prune/v1", "dry_run": dry_run, **asdict(found), **environments}


def pruned_told(found: Collected, installed: Pruned, dry_run: bool) -> str:
    """The same for people."""
    lines = [f"the store takes {found.store_bytes:,} bytes"]
    if installed.environments:
        went = "would go" if dry_run else "went"
        many = "s" if installed.environments > 1 else ""
        lines.append(
            f"{installed.environments:,} environment{many} {went}, {installed.size_bytes:,} bytes"
        )
    if dry_run:
        lines.append(
            f"{found.trees:,} trees would go, and then {found.chunks:,} chunks,"
            f" {found.chunk_bytes:,} bytes, after an hour in which nobody asks for them"
        )
    else:
        lines.append(
            f"{found.trees:,} trees and {found.chunks:,} chunks went,"
            f" {found.freed_bytes:,} bytes of disk are free again"
        )
        lines += [f"{found.waiting_bytes:,} bytes go after an hour"] if found.waiting_bytes else []
    return "\n".join([*lines, found.blocked] if found.blocked else lines)


def checked_shape(found: Scrubbed) -> dict[str, object]:
    """The JSON of `dstack-runner check --chunks`."""
    return {"schema": "dstack.scrub/v1", "ok": is_whole(found), **asdict(found)}


def checked_told(found: Scrubbed) -> str:
    """The same for people."""
    lines = [
        f"{found.size_bytes:,} bytes in {found.chunks:,} chunks and {found.manifests:,} lists of"
        " files were read"
    ]
    if found.damaged > found.mended:
        lines += [
            f"problem: {found.damaged - found.mended:,} of them are damaged and set aside",
            "  fix: nothing need be done where another agent has them: they are brought from there"
            " when they are needed; check the disk",
        ]
    if found.index_damaged:
        lines += [
            "problem: the index is damaged",
            "  fix: start the agent of this home again; it makes the index anew from the packs",
        ]
    return "\n".join(lines if len(lines) > 1 else [*lines, "all is as it was kept"])


def is_whole(found: Scrubbed) -> bool:
    """Whether nothing is left that is damaged."""
    return found.damaged <= found.mended and not found.index_damaged


def tell_on_terminal(line: str) -> None:
    """Says how far something is, where somebody looks."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)
