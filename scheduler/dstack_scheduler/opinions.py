"""What agents say to one question, asked once and without an auction: nothing is held or started.

Errors mean the same as in an auction, and so does the order: whoever would be awarded comes first.
"""

import asyncio
from collections.abc import Iterable, Sequence

from dstack_mesh.card import PeerCard
from dstack_mesh.faults import MeshError
from dstack_mesh.frozen import frozen
from dstack_scheduler.agent_port import Agent, Question
from dstack_scheduler.asking import bid_of_error
from dstack_scheduler.placement import Offer, ranked
from dstack_scheduler.refusal import reasons_of
from dstack_scheduler.verdict import Bid, Later, Never, NotNow, Now, Reason, Verdict

WORDS: dict[type[Verdict], str] = {Now: "now", Later: "later", NotNow: "not-now", Never: "never"}

SILENT = "no-answer"

_ORDER = (*WORDS.values(), SILENT)


@frozen
class Opinion:
    """What an agent says to a question; where it did not answer, why not."""

    card: PeerCard
    local: bool
    said: Bid | Reason

    @property
    def when(self) -> str:
        """ "now", "later", "not-now", "never" or "no-answer"."""
        return WORDS[type(self.said.verdict)] if isinstance(self.said, Bid) else SILENT

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it does not take the job at once; empty if it would."""
        return reasons_of(self.said.verdict) if isinstance(self.said, Bid) else (self.said,)

    @property
    def wait_seconds(self) -> float | None:
        """Until it could take the job, if it can say."""
        verdict = self.said.verdict if isinstance(self.said, Bid) else None
        return verdict.wait_seconds if isinstance(verdict, Later) else None

    @property
    def offer(self) -> Offer | None:
        """What an auction would make of it; None if it does not take the job now."""
        if isinstance(self.said, Bid) and isinstance(self.said.verdict, Now):
            return Offer(self.card, self.local, self.said.verdict, self.said.missing_bytes)
        return None


async def opinions(agents: Iterable[Agent], question: Question) -> list[Opinion]:
    """What each says; all are asked at once."""
    return list(await asyncio.gather(*(opinion(agent, question) for agent in agents)))


async def opinion(agent: Agent, question: Question) -> Opinion:
    """What one says."""
    try:
        said: Bid | Reason = await agent.ask(question)
    except MeshError as error:
        said = bid_of_error(error) or Reason(SILENT, str(error), error.hint)
    return Opinion(agent.card, agent.local, said)


def best_first(said: Sequence[Opinion]) -> list[Opinion]:
    """In the order of an award; then those that could later, the soonest first, and the others."""
    offers = {one.card.peer_id: one.offer for one in said if one.offer is not None}
    place = {offer.card.peer_id: at for at, offer in enumerate(ranked(offers.values()))}

    def rank(one: Opinion) -> tuple[int, int, float, str, str]:
        wait = one.wait_seconds
        return (
            _ORDER.index(one.when),
            place.get(one.card.peer_id, 0),
            float("inf") if wait is None else wait,
            one.card.name,
            one.card.peer_id,
        )

    return sorted(said, key=rank)
