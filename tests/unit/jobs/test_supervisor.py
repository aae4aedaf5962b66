"""The supervisor with real records, ledger and store, and an executor that does as it is told."""

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack_agent.environments.equipping import Equipped, Equipper, Note
from dstack_agent.environments.keeping import KeptEnvironments
from dstack_agent.executor.port import Ended, Launch
from dstack_agent.executor.record import claim
from dstack_agent.jobs.bringing import Bringer
from dstack_agent.jobs.chronicle import Followed
from dstack_agent.jobs.event import StopAsked
from dstack_agent.jobs.folders import KEEPING, Keeping
from dstack_agent.jobs.idleness import IDLE
from dstack_agent.jobs.places import folder_of
from dstack_agent.jobs.supervisor import Supervisor
from dstack_agent.jobs.workshop import Workshop
from dstack_agent.lease import Award, Claim
from dstack_agent.ledger import Ledger
from dstack_agent.logs.wake import Wake
from dstack_agent.memory import Memory, open_memory
from dstack_agent.records import Accepted, Given, Records
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.replacing import Replaced
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.clock import SystemClock
from dstack_mesh.faults import Broken, Busy, Forbidden, Missing, Refused
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, Digest, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind, Gpu, Machine
from dstack_scheduler.job import (
    NOTHING,
    RELOADED,
    ArtifactSaved,
    Fin,
    Input,
    JobKey,
    JobSpec,
    JobState,
    Source,
    StateChange,
)
from dstack_scheduler.needs import Needs
from dstack_scheduler.verdict import Now
from support.eventually import eventually_async

KEY = JobKey(RunId("0" * 26), 0, 1)
ME = PeerId("a" * 32)
ELSEWHERE = Source(PeerId("b" * 32), (Address("b:1"),))


@dataclass
class Puppet:
    """An executor whose jobs end when a test says so."""

    kind: ExecutorKind = ExecutorKind.PROCESS
    launching: Callable[[Launch], None] = lambda launch: None
    ended: "asyncio.Future[Ended]" = field(default_factory=asyncio.Future[Ended])
    launches: list[Launch] = field(default_factory=list[Launch])
    stops: list[bool] = field(default_factory=list[bool])

    async def launch(self, launch: Launch) -> None:
        self.launching(launch)
        self.launches.append(launch)

    async def wait(self, folder: Path) -> Ended:
        return await asyncio.shield(self.ended)

    async def spots(self, folder: Path, ports: Sequence[int]) -> tuple[None, ...]:
        return tuple(None for _ in ports)

    async def stop(self, folder: Path, abort: bool) -> None:
        self.stops.append(abort)
        if not self.ended.done():
            self.ended.set_result(Ended(137 if abort else 143, "stopped"))


@dataclass
class Bench:
    """A supervisor that runs."""

    home: Home
    memory: Memory
    puppet: Puppet
    supervisor: Supervisor
    arrived: asyncio.Event

    def spec(self) -> JobSpec:
        nothing = self.memory.store.put_manifest(Manifest(()).encode())
        return JobSpec(
            key=KEY,
            run_name=RunName("calm-ibex-1"),
            workflow="train",
            provider="bash",
            commands=("true",),
            needs=Needs(),
            code_digest=nothing,
            submitted_at=datetime.now(UTC),
        )

    async def accept(self, spec: JobSpec, secrets: dict[str, str] | None = None) -> Followed:
        await self.supervisor.accept(spec, (), secrets or {})
        return self.supervisor.follow(spec.key)

    async def until(self, followed: Followed, state: JobState) -> None:
        async def entered() -> bool:
            return any(each.state is state for each in followed.chronicle.states())

        await eventually_async(entered, 10)

    async def end(self, followed: Followed) -> Fin:
        async def over() -> Fin | None:
            return followed.chronicle.last_word

        fin = await eventually_async(over, 20)
        assert fin is not None
        return fin


@asynccontextmanager
async def bench(
    root: Path, puppet: Puppet | None = None, keeping: Keeping = KEEPING
) -> AsyncGenerator[Bench]:
    home, clock = Home(root), SystemClock()
    home.prepare()
    puppet = puppet or Puppet()
    arrived = asyncio.Event()

    async def fetch(digest: Digest, sources: Sequence[Source]) -> int:
        await arrived.wait()
        return 1

    async def here(digest: Digest) -> bool:
        return False

    async with AsyncExitStack() as stack:
        memory = open_memory(home, clock, stack)
        wake = await stack.enter_async_context(Wake(home.sockets / "wake.sock"))
        workshop = Workshop(
            jobs=home.jobs,
            journal_name="journal",
            records=memory.records,
            caches=memory.caches,
            ledger=memory.ledger,
            executors={ExecutorKind.PROCESS: puppet, ExecutorKind.DOCKER: puppet},
            store=memory.store,
            bringer=Bringer(here, fetch, ME),
            wake=wake,
            clock=clock,
            machine=lambda: Machine(1, 1, 1, 1),
            environment=lambda spec, folder, gpus: {},
            allowed=(),
            closed=Path("/nowhere"),
            user_home=Path.home(),
            equipper=Equipper(KeptEnvironments(home.environments, home.jobs)),
        )
        supervisor = Supervisor(workshop, keeping, again_seconds=0.05)
        async with asyncio.TaskGroup() as group:
            ready = asyncio.Event()
            running = group.create_task(supervisor.run(ready))
            await ready.wait()
            yield Bench(home, memory, puppet, supervisor, arrived)
            running.cancel()


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


def waiting_for_input(spec: JobSpec) -> JobSpec:
    return replace(spec, inputs=(Input(spec.code_digest, "in", (ELSEWHERE,), "prepare"),))


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
            await eventually_async(lambda: _is(lambda: bool(store.given)), 10)
            await on.supervisor.stop(KEY.run_id, None, False, "enough")
            assert (await on.end(followed)).state.state is JobState.STOPPED
            work = followed.journal.parent / "work"
            with pytest.raises(AssertionError):
                await eventually_async(lambda: _is(lambda: not work.exists()), 0.5)
            store.gate.set()
            await eventually_async(lambda: _is(lambda: not on.supervisor.running()), 10)
            await eventually_async(lambda: _is(lambda: not work.exists()), 10)
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


async def test_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    tries: list[int] = []

    def full_once(launch: Launch) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")

    async with bench(tmp_path / "h", Puppet(launching=full_once)) as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        on.puppet.ended.set_result(Ended(0))
        assert (await on.end(followed)).state.state is JobState.DONE
        assert len(tries) == 2


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


def lease(on: Bench) -> Award:
    """Gives the job the machine; how."""
    claim = Claim(KEY, RunName("x-1"), Needs(), ExecutorKind.PROCESS, 1, PeerId(""))
    hold = on.memory.ledger.reserve(claim, lambda taken: Now())
    award = Award(hold.hold_id, 1, KEY, Needs(), ExecutorKind.PROCESS, Digest(b"d" * 32))
    on.memory.ledger.commit(award)
    return award


async def test_a_lease_whose_job_was_never_written_down_is_withdrawn_at_the_start(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "h") as on:
        award = lease(on)
        assert len(on.memory.ledger.leases()) == 1
    async with bench(tmp_path / "h") as on:
        assert on.memory.ledger.leases() == ()
        # The driver did not hear of the award: repeated, it must not seem to have succeeded.
        with pytest.raises(Missing):
            on.memory.ledger.commit(award)


async def test_a_job_that_could_not_begin_is_not_the_agents(tmp_path: Path) -> None:
    def unknown(accepted: Accepted) -> bool:
        raise Busy("The ledger is in use by another process.")

    async with bench(tmp_path / "h") as on:
        on.supervisor.workshop = replace(on.supervisor.workshop, is_own=unknown)
        with pytest.raises(Busy):
            await on.accept(on.spec())
        assert on.memory.records.unfinished() == []


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


async def test_an_award_that_is_repeated_asks_nothing_of_the_ledger(tmp_path: Path) -> None:
    def unknown(accepted: Accepted) -> bool:
        raise Busy("The ledger is in use by another process.")

    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        on.supervisor.workshop = replace(on.supervisor.workshop, is_own=unknown)
        await on.accept(on.spec())  # an error would take its lease away
        on.puppet.ended.set_result(Ended(0))
        await on.end(followed)


async def test_a_job_without_a_lease_never_starts_after_a_restart(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        await on.memory.records.accept(on.spec(), ())
    async with bench(tmp_path / "h") as on:
        fin = await on.end(on.supervisor.follow(KEY))
        assert (fin.state.state, fin.state.reason) == (JobState.LOST, "not-leased")
        assert on.puppet.launches == []


async def test_a_job_that_has_a_shim_goes_on_after_a_restart_without_a_lease(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "h") as on:
        await on.memory.records.accept(on.spec(), ())
        await on.memory.records.launching(KEY)
        folder = folder_of(on.home.jobs, KEY)
        folder.mkdir(parents=True)
        assert claim(str(folder), os.getpid())
    async with bench(tmp_path / "h") as on:
        followed = on.supervisor.follow(KEY)
        await on.until(followed, JobState.RUNNING)
        on.puppet.ended.set_result(Ended(0))
        assert (await on.end(followed)).state.state is JobState.DONE


async def test_a_lease_whose_job_ended_is_ended_at_the_start_and_remembered(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        award = lease(on)
        await on.memory.records.accept(on.spec(), ())
        done = StateChange(KEY, JobState.DONE, datetime.now(UTC))
        nothing = Digest(b"d" * 32)
        await on.memory.records.finish(Fin(KEY, done, 0, nothing, 0, nothing))
    async with bench(tmp_path / "h") as on:
        assert on.memory.ledger.leases() == ()
        assert on.memory.ledger.commit(award).ended


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
        await eventually_async(lambda: _is(lambda: (folder / "work").exists() is keep), 10)
        assert folder.exists()


async def _is(fact: Callable[[], bool]) -> bool:
    return fact()


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


async def test_an_award_that_is_repeated_while_the_disk_is_full_succeeds(tmp_path: Path) -> None:
    class Full(Records):
        async def accept(
            self, spec: JobSpec, gpu_uuids: tuple[str, ...], given: Given | None = None
        ) -> bool:
            raise sqlite3.OperationalError("database or disk is full")

    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        full = Full(on.memory.records._database)  # pyright: ignore[reportPrivateUsage]
        on.supervisor.workshop = replace(on.supervisor.workshop, records=full)
        await on.accept(on.spec())
        with pytest.raises(Busy):
            await on.accept(replace(on.spec(), key=replace(KEY, job=1)))
        on.puppet.ended.set_result(Ended(0))
        assert (await on.end(followed)).state.state is JobState.DONE
        assert len(on.puppet.launches) == 1


@pytest.mark.parametrize("failures", [1, 9])
async def test_a_job_that_ended_has_one_end_whatever_its_lease_does(
    tmp_path: Path, failures: int
) -> None:
    tries: list[int] = []

    class Stuck(Ledger):
        def end(self, key: JobKey) -> None:
            tries.append(1)
            if len(tries) <= failures:
                raise Broken("The ledger cannot be used.")
            super().end(key)

    async with bench(tmp_path / "h") as on:
        with closing(Stuck(tmp_path / "ledger.db", SystemClock())) as ledger:
            on.supervisor.workshop = replace(on.supervisor.workshop, ledger=ledger)
            followed = await on.accept(on.spec())
            await on.until(followed, JobState.RUNNING)
            on.puppet.ended.set_result(Ended(0))
            assert (await on.end(followed)).state.state is JobState.DONE
            await eventually_async(lambda: _is(lambda: not on.supervisor.running()), 10)
        ends = [each for each in on.memory.records.history(KEY) if each.state.ended]
        assert [each.state for each in ends] == [JobState.DONE]
        assert on.puppet.stops == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
async def test_what_is_not_the_disk_s_fault_is_not_tried_for_ever(
    tmp_path: Path, number: int
) -> None:
    def refuse(launch: Launch) -> None:
        raise OSError(number, os.strerror(number))

    async with bench(tmp_path / "h", Puppet(launching=refuse)) as on:
        fin = await on.end(await on.accept(replace(on.spec(), artifacts=("out",))))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "agent-failed")


async def test_an_environment_that_cannot_be_made_is_the_end_with_its_reason(
    tmp_path: Path,
) -> None:
    def exhausted(spec: JobSpec, folder: Path, gpus: tuple[Gpu, ...]) -> Mapping[str, str]:
        raise OSError(errno.EMFILE, "Too many open files")

    async with bench(tmp_path / "h") as on:
        on.supervisor.workshop = replace(on.supervisor.workshop, environment=exhausted)
        fin = await on.end(await on.accept(on.spec()))
        assert (fin.state.state, fin.state.reason) == (JobState.FAILED, "not-started")


class Full(Records):
    """Records on a disk that is full once a test says so."""

    full = False

    async def order_stop(self, key: JobKey, order: StopAsked) -> None:
        self._check()
        await super().order_stop(key, order)

    async def enter(self, change: StateChange) -> None:
        self._check()
        await super().enter(change)

    async def finish(self, fin: Fin, reuse_key: Digest = NOTHING) -> None:
        self._check()
        await super().finish(fin, reuse_key)

    def _check(self) -> None:
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")


def on_full_records(on: Bench) -> Full:
    records = Full(on.memory.records._database)  # pyright: ignore[reportPrivateUsage]
    on.supervisor.workshop = replace(on.supervisor.workshop, records=records)
    return records


async def test_a_job_that_filled_the_disk_is_stopped_all_the_same(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        records = on_full_records(on)
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        records.full = True
        with pytest.raises(Busy):
            await on.supervisor.stop(KEY.run_id, None, False, "it fills my disk")
        await eventually_async(lambda: _is(lambda: on.puppet.stops == [False]), 10)
        records.full = False
        fin = await on.end(followed)
        assert (fin.state.state, fin.state.cause) == (JobState.STOPPED, "it fills my disk")


async def test_a_stop_is_remembered_while_an_attempt_is_taken_up_again(tmp_path: Path) -> None:
    def full(launch: Launch) -> None:
        raise OSError(28, "No space left on device")

    async with bench(tmp_path / "h", Puppet(launching=full)) as on:
        records = on_full_records(on)
        on.supervisor.again_seconds = 0.5
        followed = await on.accept(on.spec())

        async def waits() -> bool:
            return any(each.reason == "held-up" for each in followed.chronicle.states())

        await eventually_async(waits, 10)
        records.full = True
        with pytest.raises(Busy):
            await on.supervisor.stop(KEY.run_id, None, False, "enough")
        records.full = False
        on.puppet.launching = lambda launch: None
        assert (await on.end(followed)).state.cause == "enough"


async def test_a_job_whose_folder_is_gone_takes_nobody_down(tmp_path: Path) -> None:
    async with bench(tmp_path / "h") as on:
        followed = await on.accept(on.spec())
        await on.until(followed, JobState.RUNNING)
        followed.journal.parent.rename(tmp_path / "elsewhere")
        on.puppet.ended.set_result(Ended(3))
        await on.end(followed)
        await eventually_async(lambda: _is(lambda: not on.supervisor.running()), 10)
        on.puppet.ended = asyncio.Future()
        other = replace(on.spec(), key=replace(KEY, job=1))
        await on.until(await on.accept(other), JobState.RUNNING)


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
