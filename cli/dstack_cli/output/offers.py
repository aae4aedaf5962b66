"""What agents offer for one question, as a table and as JSON."""

from collections.abc import Sequence

from dstack_cli.output.agents import gpu_item, gpus_text
from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import duration, memory, size
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import Gpu, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.fit import cards_for
from dstack_scheduler.opinions import Opinion
from dstack_scheduler.verdict import Bid, Now

SCHEMA = "dstack.offers/v1"

SHOWN = ("now", "later")
"""Verdicts that are offers; why the others are none is said beside the table."""

COLUMNS = (
    Column("AGENT"),
    Column("WHEN"),
    Column("GPU", 1),
    Column("FREE", 0),
    Column("CPU", 3),
    Column("MEMORY FREE", 2),
    Column("DISK FREE", 5),
    Column("ISOLATION", 4),
)
FETCH = Column("TO FETCH", 1)


@frozen
class Answer:
    """What an agent says to the question, and what it said of its machine; None if it did not."""

    opinion: Opinion
    machine: Machine | None


def offers_listing(answers: Sequence[Answer], question: Question, nobody: str = "") -> Listing:
    """A line for each agent that could take the job, in the order of the answers.

    Scripts get what everybody says; names are those of agents that could take it now.

    Args:
        nobody: Why nobody was asked.
    """
    fetches = bool(question.input_digests)
    shown = [one for one in answers if one.opinion.when in SHOWN]
    rows = tuple(_row(one, question, fetches) for one in shown)
    return Listing(
        schema=SCHEMA,
        items=[offer_item(one, question) for one in answers],
        table=Table((*COLUMNS, FETCH) if fetches else COLUMNS, rows),
        names=[one.opinion.card.name for one in answers if one.opinion.offer is not None],
        empty=nobody,
    )


def offer_item(answer: Answer, question: Question) -> dict[str, Json]:
    """An agent's answer for scripts."""
    opinion, machine = answer.opinion, answer.machine
    bid = opinion.said if isinstance(opinion.said, Bid) else None
    return {
        "agent": opinion.card.name,
        "id": opinion.card.peer_id,
        "local": opinion.local,
        "verdict": opinion.when,
        "reasons": [
            {"code": one.code, "message": one.message, "hint": one.hint} for one in opinion.reasons
        ],
        "wait_seconds": opinion.wait_seconds,
        "missing_bytes": bid.missing_bytes if bid is not None else None,
        "isolation": _isolation(answer, question) or None,
        "gpus": [gpu_item(gpu) for gpu in _cards(answer, question)],
        "gives": list(bid.verdict.gpu_uuids) if bid and isinstance(bid.verdict, Now) else [],
        "cpus": machine.cpus if machine is not None else None,
        "memory_bytes": machine.memory_bytes if machine is not None else None,
        "memory_free_bytes": machine.memory_free_bytes if machine is not None else None,
        "disk_free_bytes": machine.disk_free_bytes if machine is not None else None,
    }


def _cards(answer: Answer, question: Question) -> list[Gpu]:
    """The cards that fit, whoever has them; all where none are wanted."""
    cards = answer.machine.gpus if answer.machine is not None else ()
    return cards_for(question.needs, cards)


def _isolation(answer: Answer, question: Question) -> str:
    machine = answer.machine
    level = machine.isolation.get(question.executor) if machine is not None else None
    return level.value if level is not None else ""


def _row(answer: Answer, question: Question, fetches: bool) -> tuple[str, ...]:
    opinion, machine, cards = answer.opinion, answer.machine, _cards(answer, question)
    said = opinion.said
    row = (
        opinion.card.name,
        _when(opinion),
        gpus_text(cards) or "-",
        f"{sum(gpu.free for gpu in cards)}/{len(cards)}" if cards else "-",
        str(machine.cpus) if machine is not None else "",
        memory(machine.memory_free_bytes) if machine is not None else "",
        size(machine.disk_free_bytes) if machine is not None else "",
        _isolation(answer, question) or "-",
    )
    return (*row, size(said.missing_bytes)) if fetches and isinstance(said, Bid) else row


def _when(opinion: Opinion) -> str:
    wait = opinion.wait_seconds
    return opinion.when if wait is None else f"{opinion.when}, in {duration(wait)}"
