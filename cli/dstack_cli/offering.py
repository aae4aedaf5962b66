"""What `dstack offers` does: asks every agent what a run would ask, and starts nothing."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dstack_cli.here import repo_of
from dstack_cli.naming import order_id, order_name, owner
from dstack_cli.output.forms import chosen
from dstack_cli.output.offers import Answer, offers_listing
from dstack_cli.reach import Private, Reach, carry_out, reaching
from dstack_cli.remotes.only_told import OnlyTold
from dstack_cli.run_words import Asked
from dstack_cli.running import meant
from dstack_cli.watching import waiting_lines
from dstack_mesh.card import HelloAnswer
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.machine import Machine
from dstack_mesh.trouble import render
from dstack_scheduler.agent_port import DrivenJob, Question, question_of
from dstack_scheduler.auction_events import Found
from dstack_scheduler.eligible import eligible, is_a_name
from dstack_scheduler.inputs import with_inputs
from dstack_scheduler.job import NOTHING, Revision
from dstack_scheduler.opinions import Opinion, best_first, opinions
from dstack_scheduler.placement import Wish, reason
from dstack_scheduler.plan import Plan
from dstack_scheduler.refusal import NoAgents, ambiguous, no_agents
from dstack_scheduler.submission import Submission, Submitter, submission_of
from dstack_scheduler.verdict import Bid
from dstack_scheduler.workflow.files import load_project
from dstack_scheduler.workflow.planning import plan
from dstack_scheduler.workflow.project import read_project

ANYTHING = ("bash", ("-c", "true"))
"""What is asked about where no workflow is named: a process that needs nothing but its flags."""


def show_offers(home: Home, folder: Path, asked: Asked) -> None:
    """Shows who could take what was asked for.

    Raises:
        WorkflowProblems: The files or the command line are wrong.
        MeshError: There is no agent of the name that was given, or there are several.
    """
    run, index = _submission(home, folder, asked)
    private = Private.NEVER if asked.placement == "remote" else Private.ALWAYS

    output = chosen(asked.as_json, asked.quiet)

    async def look() -> None:
        async with reaching(home, private) as reach:
            job, trouble = await _with_inputs(reach, run, index)
            question = question_of(job.spec)
            answers, nobody = await _answers(reach, question, job.placement)
        output.listing(offers_listing(answers, question, nobody))
        if not asked.as_json:
            talk = _talk(job, [one.opinion for one in answers], asked.target)
            for line in [*([trouble] if trouble else []), *talk]:
                output.talk(line)

    carry_out(look())


def _submission(home: Home, folder: Path, asked: Asked) -> tuple[Submission, int]:
    """The run that is asked about, and which job of it: that of the workflow that was named."""
    project = load_project(folder) if asked.target else read_project([], [])
    target, words = meant(project, asked)
    if not target:
        target, words = ANYTHING[0], (*ANYTHING[1], *asked.words)
    run_id, run_name = order_id(home), order_name(home)
    planned = plan(project, target, words, run_name=run_name, run_id=run_id)
    by = Submitter(
        owner=owner(),
        submitted_at=datetime.now(UTC),
        code_digest=NOTHING,
        revision=Revision(repo=repo_of(folder)),
        placement=asked.placement,
    )
    return submission_of(planned, run_id, run_name, by), _wanted(planned)


def _wanted(planned: Plan) -> int:
    """The last job; of a gang its master, which is asked for all of it."""
    last = planned.jobs[-1]
    return last.index - (last.node.rank if last.node is not None else 0)


async def _with_inputs(reach: Reach, run: Submission, index: int) -> tuple[DrivenJob, str]:
    """The job with the inputs that exist, whose bytes count; and which of them nobody has."""
    reuses = {index: run.reuses[index]} if index in run.reuses else {}
    elsewhere = OnlyTold(reach.elsewhere) if reach.has_elsewhere else None
    try:
        return (await with_inputs(replace(run, reuses=reuses), reach, elsewhere))[index], ""
    except MeshError as error:
        return run.jobs[index], f"{run.record.target} cannot start: {error}"


async def _answers(reach: Reach, question: Question, placement: str) -> tuple[list[Answer], str]:
    """What those say who may be asked, best first; and why, if there is nobody.

    Raises:
        MeshError: Nobody is called so, or several are.
    """
    takers = {agent.card.peer_id: (known, agent) for known, agent in await reach.takers()}
    found = [Found(agent.card, agent.local) for _, agent in takers.values()]
    allowed = eligible(placement, found)
    if not allowed:
        nobody = no_agents(placement, [one.card.name for one in found])
        if isinstance(nobody, NoAgents):
            return [], render(nobody)
        raise nobody
    if is_a_name(placement) and len(allowed) > 1:
        raise ambiguous(placement, [takers[peer][1].card.name for peer in allowed])
    said = best_first(await opinions((takers[peer][1] for peer in allowed), question))
    heard = {peer: known.answer for peer, (known, _) in takers.items()}
    return [Answer(one, _machine(heard[one.card.peer_id])) for one in said], ""


def _machine(answer: HelloAnswer | None) -> Machine | None:
    return answer.machine if answer is not None else None


def _talk(job: DrivenJob, said: Sequence[Opinion], target: str) -> list[str]:
    """Who would be awarded and why, and why the others would not."""
    if not said:
        return []
    lines = ["Nobody can take it now:"]
    if said[0].offer is not None:
        why = _why_the_best(job, said)
        lines = [f"Now {target or 'a job like that'} would go to {said[0].card.name}: {why}."]
    against = [(one.card.name, one.reasons) for one in said if one.reasons]
    lines += waiting_lines(against) if against else []
    hints = dict.fromkeys(each.hint for _, reasons in against for each in reasons if each.hint)
    if hints and said[0].offer is None:
        lines.append(f"What would change that: {'; '.join(hints)}")
    if job.spec.node is not None:
        lines.append(f"It starts on {job.spec.node.count} agents at once; each was asked for one.")
    return lines


def _why_the_best(job: DrivenJob, said: Sequence[Opinion]) -> str:
    """The clause that the first line of a run would have."""
    offers = [one.offer for one in said if one.offer is not None]
    answered = sum(isinstance(one.said, Bid) for one in said)
    wish = Wish(
        gpus=job.spec.needs.gpus,
        input_bytes=sum(each.size_bytes for each in job.spec.inputs),
        asked_for=is_a_name(job.placement),
        others=answered - len(offers),
        unheard=len(said) - answered,
    )
    return reason(offers[0], offers[1:], wish)
