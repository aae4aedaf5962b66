"""Newer code that is laid into a job that runs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.executor.port import Ended
from dstack_agent.records import Given
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.faults import Forbidden, Missing, Refused
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.job import NOTHING, RELOADED, JobState
from support.job_bench import KEY, Bench, bench, waiting_for_input

ANA, BOB = PeerId("a" * 32), PeerId("b" * 32)


def code(on: Bench, files: Mapping[str, str]) -> Digest:
    texts = {path: text.encode() for path, text in files.items()}
    on.memory.store.put((digest_of(text), text) for text in texts.values())
    entries = [FileEntry(path, (len(text),), digest_of(text)) for path, text in texts.items()]
    return on.memory.store.put_manifest(Manifest(entries).encode())


async def test_edits_are_laid_by_whoever_gave_the_job_and_by_nobody_else(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        began = code(on, {"a": "1", "gone": "1", ".git/HEAD": "1"})
        later = code(on, {"a": "2", "new/b": "2", ".git/HEAD": "2"})
        spec = replace(on.spec(), code_digest=began, artifacts=("out",))
        await on.supervisor.accept(spec, (), {}, Given(ANA, 1))
        followed = on.supervisor.follow(KEY)
        await on.until(followed, JobState.RUNNING)
        for peer in (BOB, PeerId("")):
            with pytest.raises(Forbidden):
                await on.supervisor.reload(KEY, later, peer)
        with pytest.raises(Missing):
            await on.supervisor.reload(KEY, Digest(b"x" * 32), ANA)
        with pytest.raises(Missing):
            await on.supervisor.reload(replace(KEY, attempt=2), later, ANA)

        assert await on.supervisor.reload(KEY, later, ANA) == Replaced(made=2, removed=1)
        assert await on.supervisor.reload(KEY, later, ANA) == Replaced()
        work = followed.journal.parent / "work"
        assert (work / "a").read_text() == (work / "new" / "b").read_text() == "2"
        assert not (work / "gone").exists() and (work / ".git" / "HEAD").read_text() == "1"
        on.puppet.ended.set_result(Ended(0))
        await on.end(followed)

        reasons = [state.reason for state in on.memory.records.history(KEY)]
        assert reasons.count(RELOADED) == 1
        assert on.memory.records.find(KEY).reuse_key == NOTHING


async def test_the_same_job_with_the_code_it_began_with_stands_in_for_later_ones(
    tmp_path: Path,
) -> None:
    """The negative control of the test above."""
    async with bench(tmp_path / "h") as on:
        spec = replace(on.spec(), code_digest=code(on, {"a": "1"}), artifacts=("out",))
        await on.supervisor.accept(spec, (), {}, Given(ANA, 1))
        followed = on.supervisor.follow(KEY)
        on.puppet.ended.set_result(Ended(0))
        await on.end(followed)
        assert on.memory.records.find(KEY).reuse_key != NOTHING


async def test_a_job_that_does_not_run_yet_or_any_more_is_left_alone(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        await on.supervisor.accept(waiting_for_input(on.spec()), (), {}, Given(ANA, 1))
        followed = on.supervisor.follow(KEY)
        await on.until(followed, JobState.PREPARING)
        with pytest.raises(Refused) as refused:
            await on.supervisor.reload(KEY, code(on, {"a": "2"}), ANA)
        assert refused.value.code == "job-not-running"


async def test_a_restarted_agent_goes_on_from_what_was_laid_last(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        spec = replace(on.spec(), code_digest=code(on, {"a": "1", "b": "1"}))
        await on.supervisor.accept(spec, (), {}, Given(ANA, 1))
        followed = on.supervisor.follow(KEY)
        await on.until(followed, JobState.RUNNING)
        await on.supervisor.reload(KEY, code(on, {"a": "2"}), ANA)
        again = on.supervisor.workshop.means(on.memory.records.find(KEY))
        assert again.reload(code(on, {"c": "3"})) == Replaced(made=1, removed=1)
        work = followed.journal.parent / "work"
        assert [path.name for path in work.iterdir()] == ["c"]


async def test_a_work_folder_that_is_a_link_by_now_is_refused_in_words(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        spec = replace(on.spec(), code_digest=code(on, {"a": "1"}))
        await on.supervisor.accept(spec, (), {}, Given(ANA, 1))
        followed = on.supervisor.follow(KEY)
        await on.until(followed, JobState.RUNNING)
        work, outside = followed.journal.parent / "work", tmp_path / "outside"
        work.rename(outside)
        work.symlink_to(outside)
        with pytest.raises(Refused, match="Cannot write"):
            await on.supervisor.reload(KEY, code(on, {"a": "2"}), ANA)
        assert (outside / "a").read_text() == "1"
