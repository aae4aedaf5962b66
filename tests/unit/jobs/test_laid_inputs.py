"""Inputs as a job finds them: merged, clashing, partial."""

import os
from dataclasses import replace
from pathlib import Path

from dstack_agent.executor.port import Ended
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_scheduler.job import ArtifactSaved, Input, JobState
from support.eventually import eventually_async
from support.job_bench import ELSEWHERE, KEY, Bench, bench


def kept_by(on: Bench, origin: str, **files: str) -> Input:
    """An input at "data" that another run kept."""
    entries: list[FileEntry] = []
    for name, text in files.items():
        chunk = digest_of(text.encode())
        on.memory.store.put([(chunk, text.encode())])
        entries.append(FileEntry(name.replace("__", "/"), (len(text),), chunk))
    digest = on.memory.store.put_manifest(Manifest(entries).encode())
    return Input(digest, "data", (ELSEWHERE,), origin)


async def test_two_inputs_at_one_path_merge_in_declared_order(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        on.arrived.set()
        first = kept_by(on, "first", both="1", one="1")
        second = kept_by(on, "second", both="2", other="2")
        for number, inputs in enumerate([(first, second), (second, first)]):
            key = replace(KEY, job=number)
            followed = await on.accept(replace(on.spec(), key=key, inputs=inputs))
            await on.until(followed, JobState.RUNNING)
            data = followed.journal.parent / "work" / "data"
            assert _texts(data) == {"both": "21"[number], "one": "1", "other": "2"}


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


async def test_two_inputs_that_do_not_fit_together_are_both_named(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        on.arrived.set()
        inputs = (kept_by(on, "first", x="1"), kept_by(on, "second", x__y="2"))
        fin = await on.end(await on.accept(replace(on.spec(), inputs=inputs)))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "inputs-clash")
        assert fin.state.cause.startswith("data of second and data of first do not fit together.")


async def test_partial_versions_are_replaced_by_the_last_ones(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        followed = await on.accept(replace(on.spec(), artifacts=("a", "b")))
        await on.until(followed, JobState.RUNNING)
        work = followed.journal.parent / "work"
        (work / "a" / "file").write_text("one")

        async def partial() -> list[ArtifactSaved]:
            return on.memory.records.artifacts(KEY)

        [seen] = await eventually_async(partial, 10)
        assert (seen.path, seen.files, seen.complete) == ("a", 1, False)
        os.mkfifo(work / "b" / "pipe")
        (work / "a" / "file").write_text("two")
        on.puppet.ended.set_result(Ended(0))
        fin = await on.end(followed)
        assert [(each.path, each.files, each.complete) for each in fin.artifacts] == [
            ("a", 1, True),
            ("b", 0, True),
        ]
        assert fin.artifacts[0].digest != seen.digest
        assert fin.state.cause == "Left out of b: pipe (it is no regular file, folder or link)."
        assert on.memory.records.artifacts(KEY) == list(fin.artifacts)
