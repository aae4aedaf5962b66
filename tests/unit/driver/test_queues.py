"""Of the jobs of a run that want the same only the first ask; all get their turn."""

import asyncio

from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobState
from dstack_scheduler.progress import Awarded
from dstack_scheduler.queues import MOST_ASKING
from dstack_scheduler.verdict import Bid
from support.drivers import Person
from support.eventually import eventually_async
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_job import play_nothing
from support.submissions import planned, submission

MANY = 3 * MOST_ASKING


class Counting(FakeAgent):
    """Knows for which jobs it was asked."""

    asked: set[int]

    async def ask(self, question: Question) -> Bid:
        self.asked.add(question.key.job)
        return await super().ask(question)


async def test_of_a_crowd_that_waits_for_a_card_few_ask_and_no_others_are_held_up() -> None:
    machine = FakeMachine("strong", cards=1, play=play_nothing)
    crowd = [planned(index, "train", gpus=1) for index in range(MANY)]
    others = [planned(MANY + index, "echo hi") for index in range(5)]
    person = Person(submission(*crowd, *others))
    agent = Counting(machine, person.store, True)
    agent.asked = set()
    person.directory.known.append(agent)

    async def others_run() -> bool:
        return {each.job for each in person.watcher.of(Awarded)} >= set(range(MANY, MANY + 5))

    async with person.running():
        await eventually_async(others_run, within=10)
        await asyncio.sleep(1.5)  # each of those that wait has asked again by now
        of_the_crowd = {index for index in agent.asked if index < MANY}
    assert MOST_ASKING < len(of_the_crowd) <= MOST_ASKING + 1


async def test_all_of_a_crowd_run_one_after_the_other() -> None:
    machine = FakeMachine("here", jobs_at_once=1)
    person = Person(submission(*(planned(index, "echo hi") for index in range(MANY))), machine)
    end = await person.run()
    assert end.state is JobState.DONE
    assert len(machine.jobs) == MANY
