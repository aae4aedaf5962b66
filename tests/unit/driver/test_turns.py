"""What a job that waited its turn asks, and how often a run of many alike looks ahead."""

import asyncio
from dataclasses import replace

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.clock import SystemClock
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.agent_port import Question
from dstack_scheduler.auction_events import Lot
from dstack_scheduler.foresight import refuse_hopeless
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.poll import SOFT_SECONDS
from dstack_scheduler.progress import Progress
from dstack_scheduler.queues import Queues
from dstack_scheduler.search import Search, Won
from dstack_scheduler.verdict import Bid
from support.fake_agent import FakeAgent, FakeMachine
from support.fake_directory import FakeDirectory
from support.fake_store import FakeStore
from support.submissions import CODE, planned, submission

RUN = RunId("1" * 26)
QUESTION = Question(JobKey(RUN, 0), RunName("calm-ibex-1"), Needs(gpus=1), ExecutorKind.PROCESS)
LOT = Lot(job=0, workflow="train", gpus=1, input_bytes=0, placement="")


class Slow(FakeAgent):
    """Takes a moment to answer, and counts how often it was asked."""

    asked = 0

    async def ask(self, question: Question) -> Bid:
        self.asked += 1
        await asyncio.sleep(0.05)
        return await super().ask(question)


async def untold(event: Progress) -> None:
    return


async def test_a_job_that_waited_its_turn_hears_more_than_who_answers_first() -> None:
    store = FakeStore(CODE)
    quick = FakeMachine("quick", cards=8).seen_by(store)
    fits = Slow(FakeMachine("fits", cards=1), store, local=False)
    directory, clock = FakeDirectory(quick, fits), SystemClock()
    search = Search(QUESTION, LOT, 1, directory, untold, clock, lambda: 0.5)
    await asyncio.sleep(2 * SOFT_SECONDS)
    won = await search.next()
    assert isinstance(won, Won)
    assert won.agent is fits


def test_jobs_with_inputs_of_their_own_wait_in_one_queue() -> None:
    queues, first = Queues(), digest_of(b"first")
    mine = replace(QUESTION, input_digests=(first,), input_sizes_bytes=(5,))
    theirs = replace(QUESTION, key=JobKey(RUN, 9, 2), input_digests=(digest_of(b"other"),))
    assert queues.turn(mine, "") is queues.turn(theirs, "")
    assert queues.turn(mine, "") is not queues.turn(mine, "remote")
    assert queues.turn(mine, "") is not queues.turn(replace(mine, needs=Needs(gpus=2)), "")


async def test_for_a_thousand_alike_is_looked_ahead_once() -> None:
    many = [planned(index, "train", gpus=1, after=[0]) for index in range(1, 1000)]
    jobs = submission(planned(0, "prepare"), *many).jobs
    agent = Slow(FakeMachine("ws", cards=1), FakeStore(CODE), local=False)
    await refuse_hopeless(jobs, FakeDirectory(agent))
    assert agent.asked == 1
