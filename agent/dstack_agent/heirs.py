"""Which runs an agent remembers for others. Pure.

Records of a writer that is silent for 30 days are forgotten everywhere, and what its jobs kept
stays where copies of it are. So that nobody has bytes that nobody can name, whoever has a copy
remembers the run as one of its own before that.
"""

from collections.abc import Collection, Iterable

from dstack_agent.hearsay import RUN
from dstack_mesh.ids import PeerId, RunId
from dstack_mesh.records.replica import RETIRED_MS
from dstack_mesh.records.stream import Stream

INHERIT_MS = RETIRED_MS // 2
"""Shorter: more is told twice of who comes back; longer: who has a copy and is off misses it."""


def orphans(others: Iterable[Stream], runs: Collection[RunId], now_ms: int) -> dict[RunId, PeerId]:
    """Those of some runs of which no other agent told for long, each with who did so last."""
    last: dict[RunId, Stream] = {}
    for stream in others:
        for run_id in (RunId(key) for kind, key in stream.records if kind == RUN):
            if run_id in runs and (run_id not in last or last[run_id].head.at < stream.head.at):
                last[run_id] = stream
    return {
        run_id: stream.writer
        for run_id, stream in last.items()
        if stream.head.at.ms < now_ms - INHERIT_MS
    }
