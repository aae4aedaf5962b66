"""Jobs of a run that want the same: only the first of them ask agents, the others wait behind them.

Which of them goes first is the same to everybody, and an agent that has no room for the first has
none for the others. So a run of a thousand alike asks no more often than one of thirty.
"""

import asyncio
from dataclasses import replace

from dstack_scheduler.agent_port import Question

MOST_ASKING = 32
"""Jobs of one kind that ask at the same time. Larger: an empty lab is filled sooner; smaller: fewer
questions while it is full. An agent answers a peer 200 a second."""


class Queues:
    """Who asks of the jobs of one run. For one event loop."""

    def __init__(self, most: int = MOST_ASKING) -> None:
        self._most = most
        self._turns: dict[tuple[Question, str], asyncio.Semaphore] = {}

    def turn(self, question: Question, placement: str) -> asyncio.Semaphore:
        """To be held while agents are asked for a job; in the order of those who want it."""
        return self._turns.setdefault(alike(question, placement), asyncio.Semaphore(self._most))


def alike(question: Question, placement: str) -> tuple[Question, str]:
    """The same of all jobs of a run that the same agents can take. Inputs only say where best."""
    key = replace(question.key, job=0, attempt=1)
    return replace(question, key=key, input_digests=(), input_sizes_bytes=()), placement
