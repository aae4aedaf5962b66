"""The supervisor with real records, ledger and store, and an executor that does as it is told."""

import asyncio
import errno
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dstack_agent.environments.equipping import Equipped, Equipper, Note
from dstack_agent.executor.port import Ended, Launch
from dstack_agent.jobs.folders import Keeping
from dstack_agent.jobs.idleness import IDLE
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.records import Accepted, Given
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.faults import Refused
from dstack_mesh.ids import Digest, PeerId
from dstack_mesh.machine import Gpu
from dstack_scheduler.job import JobSpec, JobState
from support.eventually import eventually_async
from support.job_bench import KEY, ME, Puppet, bench, is_so, lease, waiting_for_input


async def test_a_job_that_nobody_uses_is_stopped_and_what_it_kept_stays(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        spec = replace(on.spec(), idle_timeout_seconds=0.3)
        followed = await on.accept(spec)
        await on.until(followed, JobState.RUNNING)
        with on.supervisor.connected(spec.key):
            await asyncio.sleep(0.5)
            assert not on.puppet.stops
        fin = await on.end(followed)

    assert (fin.state.state, fin.state.reason) == (JobState.STOPPED, IDLE)
    assert on.puppet.stops == [False]


async def test_a_job_goes_through_its_states_and_is_written_down(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        on.puppet.ended.set_result(Ended(0))
        fin = await on.end(followed)
        assert fin.state.state is JobState.DONE
        assert on.memory.records.find(KEY).fin == fin
        assert on.memory.records.unfinished() == []
        assert on.supervisor.running() == []


async def test_a_stop_while_an_input_is_on_its_way_ends_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        followed = await on.accept(waiting_for_input(on.spec()))
        await on.until(followed, JobState.PREPARING)
        assert await on.supervisor.stop(KEY.run_id, None, False, "enough") == 1
        fin = await on.end(followed)
        assert (fin.state.state, fin.state.cause) == (JobState.STOPPED, "enough")
        assert on.puppet.launches == []
        assert await on.supervisor.stop(KEY.run_id, None, False, "enough") == 0


async def test_a_stop_that_comes_before_jobs_were_found_again_is_not_lost(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        lease(on)
        await on.memory.records.accept(waiting_for_input(on.spec()), ())
        later = Supervisor(on.supervisor.workshop)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(later.stop(KEY.run_id, None, False, "revoked"))
            await asyncio.sleep(0)
            running = group.create_task(later.run(asyncio.Event()))
            assert await stopping == 1
            on.supervisor = later
            assert (await on.end(later.follow(KEY))).state.cause == "revoked"
            running.cancel()


class Slow(ChunkStore):
    """A store that gives its bytes out when a test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: list[Digest] = []
        self.gate = threading.Event()

    def read(self, digests: Sequence[Digest]) -> Iterator[tuple[Digest, memoryview]]:
        for digest, data in super().read(digests):
            self.given.append(digest)
            self.gate.wait(20)
            yield digest, data


async def test_nothing_is_removed_while_it_is_still_written(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        with closing(Slow(tmp_path / "slow")) as store:
            texts = {digest_of(text): text for text in (b"one", b"two")}
            store.put(texts.items())
            files = [FileEntry(str(n), (3,), each) for n, each in enumerate(texts)]
            code = store.put_manifest(Manifest(files).encode())
            on.supervisor.workshop = replace(on.supervisor.workshop, store=store)
            followed = await on.accept(replace(on.spec(), code_digest=code))
            await eventually_async(lambda: is_so(lambda: bool(store.given)), 10)
            await on.supervisor.stop(KEY.run_id, None, False, "enough")
            assert (await on.end(followed)).state.state is JobState.STOPPED
            work = followed.journal.parent / "work"
            with pytest.raises(AssertionError):
                await eventually_async(lambda: is_so(lambda: not work.exists()), 0.5)
            store.gate.set()
            await eventually_async(lambda: is_so(lambda: not on.supervisor.running()), 10)
            await eventually_async(lambda: is_so(lambda: not work.exists()), 10)
            assert len(store.given) == 1


async def test_people_are_told_what_a_job_waits_for(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        followed = await on.accept(waiting_for_input(on.spec()))

        async def said() -> bool:
            return any("prepare" in each.cause for each in followed.chronicle.states())

        await eventually_async(said, 10)
        on.supervisor.noted(on.home.jobs / followed.journal.parent.name, "Pulling: 10 %")

        async def pulling() -> bool:
            return any("10 %" in each.cause for each in followed.chronicle.states())

        await eventually_async(pulling, 10)
        assert [each.cause for each in on.memory.records.history(KEY)] == [""]


async def test_a_launch_that_fails_is_the_end_with_its_reason(tmp_path: Path) -> None:
    def refuse(launch: Launch) -> None:
        raise Refused("The image is missing.", "busybox:9", code="image-missing")

    async with bench(tmp_path / "h", Puppet(launching=refuse)) as on:
        fin = await on.end(await on.accept(on.spec()))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "image-missing")
        assert "busybox:9" in fin.state.cause
        assert fin.state.exit_code is None


async def test_whatever_words_an_error_has_its_state_can_be_read_again(tmp_path: Path) -> None:
    def refuse(launch: Launch) -> None:
        raise Refused("It\0 did \udcff not start." + "x" * 9000, code="a\nb" + "c" * 300)

    async with bench(tmp_path, Puppet(launching=refuse)) as on:
        fin = await on.end(await on.accept(on.spec()))
        assert fin.state.cause.startswith("It did ? not start.x")
        assert fin.state.reason.startswith("abc")
        assert on.memory.records.history(KEY)[-1] == fin.state


async def test_a_bug_in_one_attempt_fails_it_and_leaves_the_others_alone(tmp_path: Path) -> None:
    def break_down(launch: Launch) -> None:
        if launch.spec.key == KEY:
            raise ZeroDivisionError("a bug")

    async with bench(tmp_path / "h", Puppet(launching=break_down)) as on:
        other = replace(on.spec(), key=replace(KEY, job=1))
        beside = await on.accept(other)
        fin = await on.end(await on.accept(on.spec()))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "agent-failed")
        await on.until(beside, JobState.RUNNING)
        on.puppet.ended = asyncio.Future()


async def test_secrets_that_a_restart_lost_are_named(tmp_path: Path) -> None:
    spec_with = replace
    async with bench(tmp_path / "h") as on:
        spec = spec_with(on.spec(), secret_names=("TOKEN",))
        lease(on)
        await on.memory.records.accept(spec, ())
    async with bench(tmp_path / "h") as on:
        fin = await on.end(on.supervisor.follow(KEY))
        assert fin.state.reason == "secrets-lost"
        assert "TOKEN" in fin.state.cause


def _nobody_s(accepted: Accepted) -> bool:
    del accepted
    return False


@pytest.mark.parametrize("image", ["", "x"])
async def test_what_others_may_not_see_does_not_depend_on_how_their_job_runs(
    tmp_path: Path, image: str
) -> None:
    async with bench(tmp_path / "h") as on:
        shop = replace(on.supervisor.workshop, is_own=_nobody_s)
        spec = replace(on.spec(), image=image)
        accepted = Accepted(spec, (), None, False, None, Given(ME, 1))
        launch = await shop.means(accepted).order({})
        assert launch.hidden == (shop.closed, shop.user_home)


async def test_what_is_installed_for_whom_a_peer_names_serves_nobody_else(tmp_path: Path) -> None:
    asked: list[Equipped] = []

    @dataclass(slots=True)
    class Recording(Equipper):
        async def equip(self, job: Equipped, note: Note) -> None:
            asked.append(job)

    async def note(sentence: str) -> None:
        del sentence

    async with bench(tmp_path / "h") as on:
        kept = on.supervisor.workshop.equipper.kept
        own = replace(on.supervisor.workshop, equipper=Recording(kept))
        for shop in (own, replace(own, is_own=_nobody_s)):
            for given in (None, Given(ME, 1), Given(ME, 1, PeerId("behind"))):
                means = shop.means(Accepted(on.spec(), (), None, False, None, given))
                await means.preparation(note, {}).equip(note)
    assert [job.whose for job in asked] == ["", "", "", "unknown", ME, f"{ME}/behind"]
    assert [bool(job.hidden) for job in asked] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("keep", [False, True])
async def test_what_a_failed_job_worked_in_goes_unless_it_is_to_stay(
    tmp_path: Path, keep: bool
) -> None:
    async with bench(tmp_path / "h", keeping=Keeping(work=keep)) as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        on.puppet.ended.set_result(Ended(3))
        assert (await on.end(followed)).state.state is JobState.FAILED

        async def settled() -> bool:
            return not on.supervisor.running()

        await eventually_async(settled, 10)
        folder = followed.journal.parent
        await eventually_async(lambda: is_so(lambda: (folder / "work").exists() is keep), 10)
        assert folder.exists()


async def test_artifacts_that_could_not_be_saved_stay_where_the_job_left_them(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "h") as on:
        spec = replace(on.spec(), artifacts=("out",))
        followed = await on.accept(spec)
        await on.until(followed, JobState.RUNNING)
        (on.home.chunks / "packs").rename(tmp_path / "elsewhere")
        out = followed.journal.parent / "work" / "out"
        (out / "model").write_text("weights")
        on.puppet.ended.set_result(Ended(0))
        fin = await on.end(followed)
        assert fin.state.state is JobState.FAILED
    assert (out / "model").read_text() == "weights"


async def test_an_environment_that_cannot_be_made_is_the_end_with_its_reason(
    tmp_path: Path,
) -> None:
    def exhausted(spec: JobSpec, folder: Path, gpus: tuple[Gpu, ...]) -> Mapping[str, str]:
        raise OSError(errno.EMFILE, "Too many open files")

    async with bench(tmp_path / "h") as on:
        on.supervisor.workshop = replace(on.supervisor.workshop, environment=exhausted)
        fin = await on.end(await on.accept(on.spec()))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "not-started")


async def test_a_job_whose_folder_is_gone_takes_nobody_down(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        followed.journal.parent.rename(tmp_path / "elsewhere")
        on.puppet.ended.set_result(Ended(3))
        await on.end(followed)
        await eventually_async(lambda: is_so(lambda: not on.supervisor.running()), 10)
        on.puppet.ended = asyncio.Future()
        other = replace(on.spec(), key=replace(KEY, job=1))
        await on.until(await on.accept(other), JobState.RUNNING)
