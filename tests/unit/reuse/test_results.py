"""Which jobs of a run have results already, and whose word counts."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.agent_port import DrivenJob, Listing
from dstack_scheduler.job import (
    ArtifactSaved,
    Input,
    JobKey,
    JobRecord,
    JobState,
    RunRecord,
    Source,
    StateChange,
)
from dstack_scheduler.resolve import inputs_of
from dstack_scheduler.reuse import Hit, clash, reuse_key
from dstack_scheduler.reusing import OWNER, Results, with_results
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_job import NOW
from support.fake_store import FakeStore
from support.submissions import planned, submission

CODE = Manifest([FileEntry("a.py", (1,), b"a" * 32)])
US = PeerId("u" * 32)


class Telling(FakeAgent):
    """An agent that tells of jobs that were done there."""

    def __init__(self, name: str, local: bool = False) -> None:
        machine = FakeMachine(name, addresses=() if local else [f"{name}:7420"])
        super().__init__(machine, FakeStore(), local)
        self.runs: list[RunRecord] = []
        self.asked: list[Sequence[Digest]] = []

    async def list_runs(
        self, runs: Sequence[str] = (), reuse_keys: Sequence[Digest] = ()
    ) -> Listing:
        self.asked.append(reuse_keys)
        return Listing(tuple(self.runs), ())

    def did(self, job: DrivenJob, *before: Hit, number: int = 1, by: PeerId | None = None) -> Hit:
        """The agent did a job, from what others kept; what it kept is named after the run."""
        kept = tuple(each for hit in before for each in hit.inputs)
        spec = replace(job.spec, inputs=(*job.spec.inputs, *kept))
        key = JobKey(RunId(f"{number:026d}"), 0)
        artifacts = tuple(
            ArtifactSaved(key, path, digest_of(f"{number}{path}".encode()), 1, 1, complete=True)
            for path in spec.artifacts
        )
        by = by if by is not None else OWNER if self.local else US
        record = JobRecord(
            key,
            spec.workflow,
            spec.provider,
            StateChange(key, JobState.DONE, NOW),
            agent_id=self.card.peer_id,
            artifacts=artifacts,
            reuse_key=reuse_key(spec, CODE, by),
        )
        name = RunName(f"old-ox-{number}")
        run = RunRecord(key.run_id, name, spec.workflow, "bo@desk", NOW, 1, jobs=(record,))
        self.runs.append(run)
        return found_at(self, run)


def found_at(agent: Telling, run: RunRecord) -> Hit:
    source = Source(agent.card.peer_id, agent.card.addresses)
    inputs = tuple(replace(each, sources=(source,)) for each in inputs_of(run.jobs[0], run))
    return Hit(run, run.jobs[0], inputs)


def chain() -> tuple[DrivenJob, ...]:
    return submission(planned(0, "echo a"), planned(1, "echo b", after=[0])).jobs


async def hits(jobs: Sequence[DrivenJob], *agents: FakeAgent) -> dict[int, str]:
    """The runs whose results are taken, by job."""
    found = await Results(FakeDirectory(*agents), CODE, US).hits(jobs)
    return {index: hit.run.run_name for index, hit in found.items()}


async def test_a_chain_is_looked_for_from_its_beginning() -> None:
    here, there = Telling("here", local=True), Telling("there")
    jobs = chain()
    there.did(jobs[1], here.did(jobs[0], number=1), number=2)

    assert await hits(jobs, here, there) == {0: "old-ox-1", 1: "old-ox-2"}


async def test_a_job_whose_input_is_made_anew_is_not_looked_for() -> None:
    here = Telling("here", local=True)
    jobs = chain()
    before = here.did(jobs[0], number=1)
    here.did(jobs[1], before, number=2)
    here.runs.pop(0)

    assert await hits(jobs, here) == {}
    assert len(here.asked) == 1


async def test_a_result_that_was_made_from_another_input_is_not_taken() -> None:
    here = Telling("here", local=True)
    jobs = chain()
    here.did(jobs[1], here.did(jobs[0], number=1), number=2)
    here.did(jobs[0], number=3)

    assert await hits(jobs, here) == {0: "old-ox-3"}


async def test_the_newest_result_counts_whoever_answers_first() -> None:
    one, two = Telling("one"), Telling("two")
    jobs = chain()[:1]
    one.did(jobs[0], number=1)
    two.did(jobs[0], number=2)

    assert await hits(jobs, one, two) == await hits(jobs, two, one) == {0: "old-ox-2"}


async def test_what_this_home_has_is_taken_and_nobody_else_is_asked() -> None:
    here, there = Telling("here", local=True), Telling("there")
    jobs = chain()[:1]
    here.did(jobs[0], number=1)
    there.did(jobs[0], number=2)

    assert await hits(jobs, here, there) == {0: "old-ox-1"}
    assert there.asked == []


async def test_nobody_is_believed_about_jobs_of_others() -> None:
    liar = Telling("liar")
    jobs = chain()[:1]
    liar.did(jobs[0])
    (run,) = liar.runs
    liar.runs = [replace(run, jobs=(replace(run.jobs[0], agent_id=PeerId("o" * 32)),))]

    assert await hits(jobs, liar) == {}


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.DONE])
async def test_only_what_is_done_counts(state: JobState) -> None:
    here = Telling("here", local=True)
    jobs = chain()[:1]
    here.did(jobs[0])
    (run,) = here.runs
    job = replace(run.jobs[0], state=replace(run.jobs[0].state, state=state))
    here.runs = [replace(run, jobs=(job,))]

    assert await hits(jobs, here) == {}


@pytest.mark.parametrize("wrong", [{"complete": False}, {"changing": ("x",)}, {"path": "y"}])
async def test_only_what_was_kept_whole_counts(wrong: dict[str, object]) -> None:
    here = Telling("here", local=True)
    jobs = chain()[:1]
    here.did(jobs[0])
    (run,) = here.runs
    (artifact,) = run.jobs[0].artifacts
    job = replace(run.jobs[0], artifacts=(replace(artifact, **wrong),))  # type: ignore[arg-type]
    here.runs = [replace(run, jobs=(job,))]

    assert await hits(jobs, here) == {}


async def test_where_files_are_named_only_results_of_ones_own_count() -> None:
    there = Telling("there")
    (job, *_) = chain()
    job = replace(job, spec=replace(job.spec, counted=("*.py",)))
    there.did(job, by=PeerId("o" * 32), number=1)
    assert await hits([job], there) == {}

    there.did(job, number=2)
    assert await hits([job], there) == {0: "old-ox-2"}


async def test_who_does_not_answer_holds_nobody_up() -> None:
    class Silent(Telling):
        async def list_runs(
            self, runs: Sequence[str] = (), reuse_keys: Sequence[Digest] = ()
        ) -> Listing:
            await asyncio.Event().wait()
            raise AssertionError

    there = Telling("there")
    jobs = chain()[:1]
    there.did(jobs[0])

    agents = FakeDirectory(Silent("silent"), there)
    found = await Results(agents, CODE, US, patience_seconds=0.1).hits(jobs)

    assert found[0].run.run_name == "old-ox-1"


async def test_a_result_that_would_be_laid_in_another_order_is_not_taken() -> None:
    """b takes a's folder over; a runs again, so b must be laid after it and runs again too."""
    here = Telling("here", local=True)
    one = planned(0, "echo a")
    over = replace(planned(1, "echo b"), artifacts=("job-0-out/sub",))
    beside = planned(2, "echo c")
    jobs = submission(one, over, beside, planned(3, "echo d", after=[0, 1, 2])).jobs
    here.did(jobs[1], number=1)
    here.did(jobs[2], number=2)

    assert await hits(jobs, here) == {2: "old-ox-2"}


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("data", "data", True),
        ("data", "data/sub", True),
        ("data/sub/", "data", True),
        ("data", "data2", False),
        ("~/x", "/home/me/x", True),
        ("/a", "/b", True),
        ("data", "~/data", False),
    ],
)
def test_paths_that_may_meet(one: str, other: str, meet: bool) -> None:
    assert clash([one], [other]) is meet


async def test_results_are_inputs_of_what_still_runs_after_what_it_looked_up() -> None:
    here = Telling("here", local=True)
    jobs = chain()
    hit = here.did(jobs[0])
    (looked_up,) = found_at(Telling("there"), here.runs[0]).inputs
    spec = replace(jobs[1].spec, inputs=(looked_up,))

    (left,) = with_results(
        [replace(jobs[1], after=())], [["job-0"]], {"job-0": hit}, {"job-1": spec}
    )

    assert left.spec.inputs == (looked_up, *hit.inputs)


def test_jobs_that_make_others_keep_the_inputs_that_were_looked_up_for_them() -> None:
    makers = [
        replace(job, spec=replace(job.spec, workflow="", makes=name), after=())
        for job, name in zip(chain(), ("a", "b"), strict=False)
    ]
    inputs = {name: Input(Digest(name.encode() * 32), "data") for name in ("a", "b")}
    found = {name: replace(makers[0].spec, inputs=(inputs[name],)) for name in inputs}

    left = with_results(makers, [[], []], {}, found)

    assert [job.spec.inputs for job in left] == [(inputs["a"],), (inputs["b"],)]
