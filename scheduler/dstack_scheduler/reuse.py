"""When the result of an earlier job stands in for a job: pure.

A key says what a job computes from: its definition with everything put in, its code, its variables
and environment, and the digest of each input at its path. Equal keys mean that nothing of that
differs in any byte; every field of a specification is in the key but those that are named here. So
a new field makes jobs differ until somebody decides otherwise.

Only what is kept is a result: a job without artifacts always runs. So do a provider that is run
directly, which somebody typed to see it run, a job with ports, which somebody wants to talk to, a
job of several nodes or one that makes others, which is not all of its workflow, a process that
starts outside of its code, whose folder is not compared, and a job with secrets, whose values
nobody may compare.

Of the code counts the work tree and, of its git folder, everything but the objects and the index:
the commit names those. Where a workflow says which files count, only those do; then other files of
the same code may differ, so a result counts for whoever submitted it alone.

A job's key is said by the agent that ran it, from what it laid and what it was given, and believed
of nobody else.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, cast

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import Manifest
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.job import (
    NOTHING,
    ArtifactSaved,
    Input,
    JobRecord,
    JobSpec,
    JobState,
    RunRecord,
    Source,
)
from dstack_scheduler.resolve import inputs_of
from dstack_scheduler.secret import named_in

FORM = "1"
"""Part of each key: another form makes other keys."""

_WITHOUT = frozenset(
    {
        *("key", "run_name", "submitted_at", "owner", "revision", "target", "job_count"),
        *("stop_grace_seconds", "max_duration_seconds", "idle_timeout_seconds", "retry", "cache"),
        *("code_digest", "inputs", "needs"),
    }
)
"""What of a specification says which job it is or how it is looked after, and what is put into a
key in another form."""

_GIT = re.compile(r"\.git/(objects/|index\Z)")
"""What the commit names."""


def is_reusable(spec: JobSpec) -> bool:
    """Whether a job has a result that may stand in for another one's, or could be stood in for."""
    secrets = spec.secret_names or named_in(spec.env.values())
    shared = spec.ports or spec.apps or spec.node or spec.makes
    elsewhere = spec.executor is ExecutorKind.PROCESS and spec.working_dir.startswith("/")
    return bool(spec.workflow and spec.artifacts) and not (shared or secrets or elsewhere)


def reuse_key(spec: JobSpec, code: Manifest, by: PeerId) -> Digest:
    """What a job computes from; empty for one whose result stands in for nothing.

    Args:
        by: Who submitted it, as whoever runs it knows them: empty for the owner of that home.
    """
    if not is_reusable(spec):
        return NOTHING
    counted = {each.name: getattr(spec, each.name) for each in fields(spec) if _counts(each, spec)}
    parts = {
        "form": FORM,
        "definition": counted,
        "needs": replace(spec.needs, interruptible=False),
        "code": counted_digest(code, spec.counted),
        "inputs": tuple((each.path, each.digest) for each in spec.inputs),
        "by": by if spec.counted else "",
    }
    return digest_of(_encoded(parts))


def counted_digest(code: Manifest, patterns: Sequence[str]) -> Digest:
    """What of the code counts."""
    if patterns:
        chosen = re.compile("|".join(f"(?:{_expression(each)})" for each in patterns))
        kept = (each for each in code.entries if chosen.fullmatch(each.path))
    else:
        kept = (each for each in code.entries if not _GIT.match(each.path))
    return Manifest(kept).digest


class Hit(NamedTuple):
    """A job whose result stands in for another one's.

    Attributes:
        inputs: What it kept, for jobs that depend on it.
    """

    run: RunRecord
    job: JobRecord
    inputs: tuple[Input, ...]


def hit_of(spec: JobSpec, key: Digest, agent: Source, runs: Iterable[RunRecord]) -> Hit | None:
    """The newest result that an agent has itself, whole, and under this key."""
    found = [
        Hit(run, job, _at(agent, inputs_of(job, run)))
        for run in runs
        for job in run.jobs
        if job.reuse_key == key and key and job.agent_id == agent.peer_id and _is_whole(spec, job)
    ]
    return max(found, key=rank, default=None)


def rank(hit: Hit) -> tuple[datetime, str]:
    """Of several results the newest run counts, wherever it was heard of first."""
    return hit.run.submitted_at, hit.run.run_id


def clash(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether files of two jobs may lie at one path, so that it matters which comes first."""
    others = tuple(other)
    return any(_overlap(mine, theirs) for mine in one for theirs in others)


def _overlap(one: str, other: str) -> bool:
    if one.startswith(("/", "~")) and other.startswith(("/", "~")):
        return True  # a home may lie anywhere
    mine, theirs = f"{one.rstrip('/')}/", f"{other.rstrip('/')}/"
    return mine.startswith(theirs) or theirs.startswith(mine)


def _is_whole(spec: JobSpec, job: JobRecord) -> bool:
    kept = {each.path for each in job.artifacts if _is_settled(each)}
    return job.state.state is JobState.DONE and kept == set(spec.artifacts)


def _is_settled(artifact: ArtifactSaved) -> bool:
    return artifact.complete and not artifact.changing


def _at(agent: Source, inputs: Iterable[Input]) -> tuple[Input, ...]:
    """The inputs with the agent among their sources, at the address that it has now."""
    return tuple(
        replace(each, sources=(agent, *(s for s in each.sources if s.peer_id != agent.peer_id)))
        for each in inputs
    )


def _expression(pattern: str) -> str:
    """A pattern of paths as a regular expression: `src/**`, `*.py`, `src`, `src/`."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern.removeprefix("./").rstrip("/"))
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(words.get(part, re.escape(part)) for part in parts) + "(?:/.*)?"


def _counts(each: Any, spec: JobSpec) -> bool:
    """Whether a field is in the key; what says nothing is left out, so that old keys stay."""
    return each.name not in _WITHOUT and getattr(spec, each.name) != _default(each)


def _default(each: Any) -> object:
    return each.default_factory() if each.default_factory is not MISSING else each.default


def _encoded(value: object) -> bytes:
    """Bytes that no other value has."""
    match value:
        case bytes():
            return _framed(b"b", value)
        case str():
            return _framed(b"s", value.encode("utf-8", "surrogatepass"))
        case None | bool() | int() | float():
            return _framed(b"v", repr(value).encode())
        case Enum():
            return _framed(b"e", _encoded(value.value))
        case Mapping():
            items = cast(Mapping[object, object], value).items()
            pairs = sorted(_encoded(name) + _encoded(each) for name, each in items)
            return _framed(b"m", b"".join(pairs))
        case tuple():
            return _framed(b"t", b"".join(map(_encoded, cast(tuple[object, ...], value))))
        case _ if is_dataclass(value):
            named = {each.name: getattr(value, each.name) for each in fields(value)}
            return _framed(b"o", _encoded(named))
        case _:
            raise TypeError(f"a {type(value).__name__} has no place in a key")


def _framed(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(8, "big") + data
