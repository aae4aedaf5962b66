"""Stories of runs that a driver carries out at agents in memory."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from dstack_mesh.faults import Busy, Missing, Refused
from dstack_mesh.ids import HoldId
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import Fin, JobSpec, JobState
from dstack_scheduler.plan import PlannedJob, Reuse
from dstack_scheduler.progress import Asked, Awarded, Kept, RunEnded, Sending, Waiting
from dstack_scheduler.refusal import NoAgentFits, NoAgents
from dstack_scheduler.verdict import Bid
from support.drivers import Person, job_of
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_job import play_nothing
from support.submissions import planned, submission


async def test_a_job_runs_on_this_machine_and_its_log_arrives() -> None:
    here = FakeMachine("here")
    person = Person(submission(planned(0, "echo hello")), here, local=here)

    end = await person.run()

    assert end.state is JobState.DONE
    assert person.watcher.log == b"hello\n"
    (awarded,) = person.watcher.of(Awarded)
    assert (awarded.local, awarded.why) == (True, "this machine can run it")
    assert isinstance(person.watcher.seen[-1], RunEnded)


@pytest.mark.timed
async def test_a_warm_run_on_this_machine_takes_four_calls_and_no_waiting() -> None:
    here = FakeMachine("here")
    person = Person(submission(planned(0, "echo hello")), here, local=here)
    began = asyncio.get_running_loop().time()

    await person.run()

    assert here.calls == ["ask", "reserve", "commit", "attach"]
    assert asyncio.get_running_loop().time() - began < 0.2


@pytest.mark.timed
async def test_this_machine_does_not_wait_for_a_slow_one() -> None:
    here, slow = FakeMachine("here"), FakeMachine("slow")
    person = Person(submission(planned(0, "echo hello")), here, local=here)
    person.directory.known.append(SlowToAnswer(slow, person.store, False))
    began = asyncio.get_running_loop().time()

    await person.run()

    assert asyncio.get_running_loop().time() - began < 0.2


class SlowToAnswer(FakeAgent):
    """An agent whose answer to an ask never comes."""

    async def ask(self, question: Question) -> Bid:
        await asyncio.Event().wait()
        raise AssertionError("nobody answers")


async def test_a_job_with_a_gpu_lands_where_the_gpu_is_and_says_why() -> None:
    here, strong = FakeMachine("here"), FakeMachine("strong", cards=1, addresses=["10.0.0.2:7420"])
    person = Person(submission(planned(0, "echo hi", gpus=1)), here, strong, local=here)

    await person.run()

    (awarded,) = person.watcher.of(Awarded)
    assert awarded.agent.name == "strong"
    assert awarded.why == "only agent with a free GPU"
    assert awarded.gpu_uuids == strong.gpu_uuids
    assert [sending.what for sending in person.watcher.of(Sending)] == ["code", "code"]


async def test_the_exit_code_of_the_run_is_that_of_its_command() -> None:
    here = FakeMachine("here")
    person = Person(submission(planned(0, "exit 3")), here, local=here)

    end = await person.run()

    assert (end.state, end.exit_code) == (JobState.FAILED, 3)


async def test_a_chain_runs_in_order_and_hands_artifacts_on() -> None:
    here = FakeMachine("here")
    jobs = (planned(0, "echo a"), planned(1, "echo b", after=[0]))
    person = Person(submission(*jobs), here, local=here)

    await person.run()

    first, second = (here.jobs[key] for key in sorted(here.jobs))
    assert person.watcher.log == b"a\nb\n"
    assert [each.digest for each in second.spec.inputs] == [
        artifact.digest for artifact in first.artifacts
    ]
    assert second.spec.inputs[0].path == "job-0-out"
    assert second.spec.inputs[0].sources[0].peer_id == here.card.peer_id


async def test_the_first_failure_ends_the_chain_and_is_named() -> None:
    here = FakeMachine("here")
    jobs = (planned(0, "exit 9", name="prepare"), planned(1, "echo b", after=[0]))
    person = Person(submission(*jobs), here, local=here)

    end = await person.run()

    assert (end.state, end.exit_code, end.key.job) == (JobState.FAILED, 9, 0)
    assert "prepare" in end.cause
    assert len(here.jobs) == 1


async def test_artifacts_that_only_this_machine_can_reach_are_brought_to_the_winner() -> None:
    here, strong = FakeMachine("here"), FakeMachine("strong", cards=1, addresses=["10.0.0.2:7420"])
    jobs = (planned(0, "echo a"), planned(1, "echo b", after=[0], gpus=1))
    person = Person(submission(*jobs), here, strong, local=here)

    await person.run()

    (kept,) = next(job for job in here.jobs.values()).artifacts
    assert kept.digest in strong.trees


async def test_artifacts_that_the_winner_can_dial_are_not_carried_by_the_driver() -> None:
    first = FakeMachine("first", cards=1, addresses=["10.0.0.1:7420"])
    second = FakeMachine("second", cards=2, addresses=["10.0.0.2:7420"])
    jobs = (planned(0, "echo a", gpus=1), planned(1, "echo b", after=[0], gpus=2))
    person = Person(submission(*jobs), first, second)

    await person.run()

    (kept,) = next(job for job in first.jobs.values()).artifacts
    assert kept.digest not in second.trees
    (consumer,) = second.jobs.values()
    assert consumer.spec.inputs[0].sources[0].addresses == ("10.0.0.1:7420",)


async def test_an_agent_is_asked_with_the_sizes_of_the_inputs() -> None:
    asked: list[Question] = []

    class Listening(FakeAgent):
        async def ask(self, question: Question) -> Bid:
            asked.append(question)
            return await super().ask(question)

    here = FakeMachine("here")
    jobs = (planned(0, "echo a"), planned(1, "echo b", after=[0]))
    person = Person(submission(*jobs))
    person.directory.known.append(Listening(here, person.store, True))
    await person.run()

    made = next(job for job in here.jobs.values() if job.key.job == 0).artifacts
    assert asked[-1].input_digests == tuple(artifact.digest for artifact in made)
    assert asked[-1].input_sizes_bytes == tuple(artifact.size_bytes for artifact in made)
    assert len(made) == 1


async def test_a_second_copy_of_artifacts_is_brought_here_and_told() -> None:
    there = FakeMachine("there", addresses=["10.0.0.2:7420"])
    person = Person(submission(planned(0, "echo a")), there)

    await person.run()

    (job,) = there.jobs.values()
    assert {artifact.digest for artifact in job.artifacts} <= person.store.trees
    assert [kept.agent.name for kept in person.watcher.of(Kept)] == ["there"]


async def test_a_job_that_nobody_can_ever_run_fails_at_once_with_the_nearest_miss() -> None:
    one, two = FakeMachine("one"), FakeMachine("two", cards=1)
    person = Person(submission(planned(0, "echo a", gpus=2, name="train")), one, two)

    with pytest.raises(NoAgentFits) as refused:
        await person.run()

    assert "train" in refused.value.what
    assert "one:" in refused.value.why
    assert "two:" in refused.value.why
    assert refused.value.hint == "ask for fewer GPUs"


async def test_a_chain_with_a_job_that_fits_nowhere_starts_nothing() -> None:
    small = FakeMachine("ws-1")
    chain = submission(planned(0), planned(1, after=[0], gpus=2, name="train"))
    with pytest.raises(NoAgentFits) as refused:
        await Person(chain, small).run()
    assert "train" in refused.value.what
    assert not small.jobs


async def test_one_agent_that_may_is_enough_for_a_chain_to_start() -> None:
    small, large = FakeMachine("ws-1"), FakeMachine("ws-2", cards=2)
    chain = submission(planned(0), planned(1, after=[0], gpus=2))
    end = await Person(chain, small, large, local=small).run()
    assert end.state is JobState.DONE


async def test_an_agent_that_is_called_too_often_is_asked_again() -> None:
    here, asked = FakeMachine("here"), list[Question]()

    class Pacing(FakeAgent):
        async def ask(self, question: Question) -> Bid:
            asked.append(question)
            if len(asked) < 3:
                raise Busy("This peer calls too often.", code="too-often", retry_seconds=0.1)
            return await super().ask(question)

    person = Person(submission(planned(0, "echo a")))
    person.directory.known.append(Pacing(here, person.store, True))
    end = await person.run()
    assert end.state is JobState.DONE
    assert len(asked) >= 3


async def test_without_agents_the_error_says_so() -> None:
    with pytest.raises(NoAgents):
        await Person(submission(planned(0, "echo a"))).run()


async def test_a_waiting_run_says_who_holds_the_gpu_and_starts_when_it_is_free() -> None:
    shared = FakeMachine("shared", cards=1, play=play_nothing)
    first = Person(submission(planned(0, "sleep", gpus=1), number=1), shared)
    second = Person(submission(planned(0, "sleep", gpus=1), number=2), shared)
    async with first.running(), second.running() as waiting:
        running = await job_of(shared)
        late = second if running.spec.run_name == "calm-ibex-1" else first

        async def waits() -> list[Waiting]:
            return late.watcher.of(Waiting)

        (wait,) = await eventually_async(waits, within=5)
        assert running.spec.run_name in wait.reasons[0][1][0].message
        await running.end()

        async def both() -> bool:
            return len(shared.jobs) == 2

        assert await eventually_async(both, within=5)
        assert not waiting.done() or waiting.result().state is JobState.DONE


async def test_a_reused_run_is_found_at_any_agent_and_laid_in() -> None:
    old = FakeMachine("old", addresses=["10.0.0.9:7420"])
    await Person(submission(planned(0, "echo a", name="prepare")), old).run()
    new = FakeMachine("new", addresses=["10.0.0.8:7420"])
    job = reusing(planned(0, "echo b", name="train"), Reuse(workflow="prepare", text="prepare"))
    person = Person(submission(job, number=2, placement="new"), old, new)

    await person.run()

    (consumer,) = new.jobs.values()
    (producer,) = old.jobs.values()
    assert consumer.spec.inputs[0].digest == producer.artifacts[0].digest
    assert consumer.spec.inputs[0].sources[0].addresses == ("10.0.0.9:7420",)


async def test_a_reuse_of_nothing_says_what_there_is_and_starts_nothing() -> None:
    here = FakeMachine("here")
    job = reusing(planned(0, "echo b"), Reuse(workflow="prepare", text="prepare"))

    with pytest.raises(Missing):
        await Person(submission(job), here, local=here).run()

    assert not here.jobs


async def test_every_job_is_told_of_once() -> None:
    here = FakeMachine("here")
    jobs = (planned(0, "echo a"), planned(1, "echo b", after=[0]))
    person = Person(submission(*jobs), here, local=here)

    await person.run()

    assert [fin.key.job for fin in person.watcher.of(Fin)] == [0, 1]
    assert [awarded.job for awarded in person.watcher.of(Awarded)] == [0, 1]
    assert [asked.job for asked in person.watcher.of(Asked)] == [0, 1]


def reusing(job: PlannedJob, *reuses: Reuse) -> PlannedJob:
    return replace(job, reuses=reuses)


class KeepsSecrets(FakeAgent):
    """An agent that remembers which values an award brought."""

    given: dict[str, str] | None = None

    async def commit(
        self, hold_id: HoldId, epoch: int, spec: JobSpec, secrets: Mapping[str, str]
    ) -> None:
        KeepsSecrets.given = dict(secrets)
        await super().commit(hold_id, epoch, spec, secrets)


async def test_an_award_brings_the_values_that_the_job_needs_and_no_others() -> None:
    job = replace(planned(0, "echo"), secret_names=("TOKEN",), env={"URL": "x${{ secrets.PASS }}"})
    kept = {"TOKEN": "t", "PASS": "p", "OTHER": "o"}
    here = FakeMachine("here")
    person = Person(replace(submission(job), secrets=kept))
    person.directory.known.append(KeepsSecrets(here, person.store, True))
    await person.run()
    assert KeepsSecrets.given == {"TOKEN": "t", "PASS": "p"}


async def test_a_driver_without_the_values_awards_nothing_and_says_why() -> None:
    here = FakeMachine("here")
    job = replace(planned(0, "echo"), secret_names=("TOKEN",))
    person = Person(submission(job), here, local=here)
    with pytest.raises(Refused) as refused:
        await person.run()
    assert refused.value.code == "secrets-absent"
    assert "TOKEN" in refused.value.why
    assert here.jobs == {}
