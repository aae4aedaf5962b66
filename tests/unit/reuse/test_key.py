"""Keys of results: equal exactly where nothing differs that a job computes from."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import Entry, FileEntry, LinkEntry, Manifest
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.app import App
from dstack_scheduler.job import NOTHING, Input, JobKey, JobSpec, Node, Revision
from dstack_scheduler.needs import Needs
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.retry import Retry
from dstack_scheduler.reuse import counted_digest, is_reusable, reuse_key
from dstack_scheduler.secret import RegistryAuth

AT = datetime(2026, 11, 20, tzinfo=UTC)
BY = PeerId("b" * 32)
MANY = Manifest([FileEntry("a.py", (1,), b"a" * 32), FileEntry("src/b.py", (1,), b"b" * 32)])

SPEC = JobSpec(
    key=JobKey(RunId("0" * 26), 0),
    run_name=RunName("calm-ibex-1"),
    workflow="train",
    provider="bash",
    commands=("python train.py",),
    needs=Needs(),
    code_digest=Digest(b"c" * 32),
    submitted_at=AT,
    artifacts=("model",),
)

words = st.text(max_size=4)
digests = st.binary(min_size=1, max_size=2).map(digest_of)
inputs = st.builds(Input, digests, st.sampled_from(["data", "data2", "dat"]), origin=words)
definitions = st.builds(
    JobSpec,
    key=st.just(SPEC.key),
    run_name=st.just(SPEC.run_name),
    workflow=st.sampled_from(["train", "trai", "n"]),
    provider=st.sampled_from(["bash", "python"]),
    commands=st.lists(words, max_size=3).map(tuple),
    needs=st.builds(Needs, gpus=st.integers(0, 2), gpu_name=st.sampled_from(["", "V100"])),
    code_digest=st.just(SPEC.code_digest),
    submitted_at=st.just(AT),
    image=st.sampled_from(["", "a", "ab"]),
    entrypoint=st.lists(words, max_size=2).map(tuple),
    env=st.dictionaries(words, words, max_size=3),
    working_dir=st.sampled_from(["", "a", "a/b"]),
    artifacts=st.sampled_from([("model",), ("model", "logs"), ("model/logs",)]),
    inputs=st.lists(inputs, max_size=3).map(tuple),
    python=st.sampled_from(["", "3.11"]),
    variables=st.dictionaries(words, words, max_size=2),
)
paths = st.sampled_from(["a", "b", "src/a", "src/b", ".git/HEAD", ".git/shallow", "x/.git/index"])
files = st.builds(FileEntry, paths, st.just((1,)), digests, st.booleans())
trees = st.lists(
    files | st.builds(LinkEntry, paths, st.just("a")), max_size=4, unique_by=attrgetter("path")
)
codes = trees.map(Manifest)


def computes_from(spec: JobSpec, code: Manifest) -> tuple[object, ...]:
    """The same by another way than the key: everything of it, side by side."""
    kept = tuple((each.path, each.digest) for each in spec.inputs)
    return (replace(spec, inputs=()), kept, code.entries)


@given(definitions, codes, definitions, codes)
def test_keys_are_equal_exactly_where_nothing_differs(
    one: JobSpec, one_code: Manifest, other: JobSpec, other_code: Manifest
) -> None:
    equal = computes_from(one, one_code) == computes_from(other, other_code)
    assert (reuse_key(one, one_code, BY) == reuse_key(other, other_code, BY)) is equal


@given(definitions, codes, st.data())
def test_a_change_anywhere_changes_the_key(
    spec: JobSpec, code: Manifest, data: st.DataObject
) -> None:
    """Pairs that are drawn apart rarely differ in one place: here they always do."""
    name = data.draw(st.sampled_from(sorted({each.name for each in fields(spec)} - LOOKED_AFTER)))
    other, other_code = spec, code
    if name == "code_digest":
        other_code = data.draw(codes)
    else:
        other = replace(spec, **{name: getattr(data.draw(definitions), name)})

    equal = computes_from(spec, code) == computes_from(other, other_code)

    assert (reuse_key(spec, code, BY) == reuse_key(other, other_code, BY)) is equal


LOOKED_AFTER = {
    *("key", "run_name", "submitted_at", "owner", "revision", "target", "job_count"),
    *("stop_grace_seconds", "max_duration_seconds", "idle_timeout_seconds", "retry", "cache"),
    *("secret_names", "ports", "apps", "node", "makes"),
}
"""What says which job it is or how it is looked after; with the last line nothing is reused."""

ALWAYS_RUN = {"secret_names", "ports", "apps", "node", "makes"}

ANOTHER: dict[str, Any] = {
    "key": JobKey(RunId("1" * 26), 3, 2),
    "run_name": RunName("wild-yak-7"),
    "submitted_at": datetime(2027, 1, 1, tzinfo=UTC),
    "owner": "bo@desk",
    "revision": Revision("github.com/x/y", "main", "c0ffee", dirty=True),
    "target": "evaluate",
    "job_count": 4,
    "stop_grace_seconds": 99.0,
    "max_duration_seconds": 7.0,
    "idle_timeout_seconds": 7.0,
    "retry": Retry(),
    "cache": ("~/.cache",),
}

OTHER: dict[str, Any] = {
    "workflow": "x",
    "provider": "x",
    "commands": ("x",),
    "needs": Needs(gpus=1),
    "image": "x",
    "entrypoint": ("x",),
    "env": {"X": ""},
    "working_dir": "x",
    "artifacts": ("x",),
    "inputs": (Input(Digest(b"x" * 32), "x"),),
    "python": "3.12",
    "variables": {"x": ""},
    "registry_auth": RegistryAuth("ana", "${{ secrets.R }}"),
    "counted": ("x",),
    "installs": ("x",),
    "prebuild": Prebuild.FORCE,
}


@pytest.mark.parametrize("name", ANOTHER)
def test_which_job_it_is_and_how_it_is_looked_after_is_not_in_the_key(name: str) -> None:
    other = replace(SPEC, **{name: ANOTHER[name]})
    assert reuse_key(other, MANY, BY) == reuse_key(SPEC, MANY, BY) != NOTHING


@pytest.mark.parametrize("name", OTHER)
def test_everything_else_is(name: str) -> None:
    other = replace(SPEC, **{name: OTHER[name]})
    assert reuse_key(other, MANY, BY) not in (reuse_key(SPEC, MANY, BY), NOTHING)


def test_every_field_of_a_specification_was_thought_of() -> None:
    known = {*ANOTHER, *OTHER, "code_digest", *ALWAYS_RUN}
    assert {each.name for each in fields(SPEC)} == known


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, workflow=""),
        replace(SPEC, artifacts=()),
        replace(SPEC, ports=(0,)),
        replace(SPEC, apps=(App("lab"),)),
        replace(SPEC, node=Node(0, 2)),
        replace(SPEC, makes="train"),
        replace(SPEC, working_dir="/home/ana"),
        replace(SPEC, secret_names=("TOKEN",)),
        replace(SPEC, env={"URL": "x:${{ secrets.PASSWORD }}@y"}),
    ],
    ids=[
        "run directly",
        "nothing kept",
        "ports",
        "apps",
        "node",
        "maker",
        "starts outside of its code",
        "secret",
        "secret in a value",
    ],
)
def test_a_job_without_a_result_that_can_be_compared_has_no_key(spec: JobSpec) -> None:
    assert not is_reusable(spec)
    assert reuse_key(spec, MANY, BY) == NOTHING


def test_an_interruptible_job_computes_the_same() -> None:
    other = replace(SPEC, needs=Needs(interruptible=True))
    assert reuse_key(other, MANY, BY) == reuse_key(SPEC, MANY, BY)


def test_who_has_an_input_and_what_it_is_called_is_not_in_the_key() -> None:
    one = replace(SPEC, inputs=(Input(Digest(b"i" * 32), "data", origin="a-b-1", size_bytes=1),))
    other = replace(SPEC, inputs=(Input(Digest(b"i" * 32), "data", origin=":v1"),))
    assert reuse_key(one, MANY, BY) == reuse_key(other, MANY, BY)


def tree(*paths: str, content: bytes = b"1" * 32) -> Manifest:
    return Manifest([FileEntry(path, (1,), content) for path in paths])


@pytest.mark.parametrize(
    ("pattern", "counts", "does_not"),
    [
        ("src/**", ["src/a.py", "src/x/y/b.py"], ["a.py", "srcs/a.py", "x/src/a.py"]),
        ("src", ["src/a.py"], ["srcs", "a/src"]),
        ("./src/", ["src/a.py"], ["b"]),
        ("*.py", ["a.py"], ["src/a.py", "apy"]),
        ("**/*.py", ["a.py", "src/x/a.py"], ["a.pyc"]),
        ("data?.csv", ["data1.csv"], ["data.csv", "data12.csv", "data/.csv"]),
    ],
)
def test_patterns_of_what_counts(pattern: str, counts: list[str], does_not: list[str]) -> None:
    code = tree(*counts, *does_not)
    assert counted_digest(code, [pattern]) == tree(*counts).digest


@given(codes, codes)
def test_where_files_are_named_only_those_count(one: Manifest, other: Manifest) -> None:
    def chosen(code: Manifest) -> list[Entry]:
        return [each for each in code.entries if each.path.startswith("src/")]

    equal = counted_digest(one, ["src/**"]) == counted_digest(other, ["src/**"])
    assert equal is (chosen(one) == chosen(other))


def test_where_files_are_named_a_result_is_its_submitters_alone() -> None:
    """The others may have been written by somebody to change what is kept."""
    narrow = replace(SPEC, counted=("src/**",))
    assert reuse_key(narrow, MANY, BY) != reuse_key(narrow, MANY, PeerId("c" * 32))
    assert reuse_key(SPEC, MANY, BY) == reuse_key(SPEC, MANY, PeerId("c" * 32))


def test_objects_and_index_of_git_are_counted_by_the_commit() -> None:
    code = tree("a.py", ".git/shallow", ".git/config", ".git/hooks/x")
    packed = tree(*(each.path for each in code.entries), ".git/objects/pack/1.pack", ".git/index")
    assert counted_digest(packed, ()) == counted_digest(code, ())
    for path in (".git/shallow", ".git/config", ".git/hooks/x"):
        rest = Manifest(each for each in code.entries if each.path != path)
        assert counted_digest(rest, ()) != counted_digest(code, ()), path
