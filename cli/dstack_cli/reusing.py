"""Takes results of earlier jobs instead of running them again, and says so in one line each."""

from collections.abc import Mapping
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dstack_cli.reach import Reach
from dstack_cli.submitting import Order, submission
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import PeerId
from dstack_mesh.trust.membership import Membership
from dstack_scheduler.plan import Plan
from dstack_scheduler.submission import Submission

# A run that has no result to take loads none of it.
if TYPE_CHECKING:
    from dstack_scheduler.inputs import Elsewhere
    from dstack_scheduler.reuse import Hit


@frozen
class Taken:
    """What is left of a run.

    Attributes:
        whole: The result that stands in for all of it.
        hits: The results that were taken, by workflow; of no other if one stands in for all.
    """

    plan: Plan
    submission: Submission
    whole: "Hit | None" = None
    hits: "Mapping[str, Hit]" = field(default_factory=dict[str, "Hit"])

    @property
    def lines(self) -> tuple[str, ...]:
        """For people, one for each result that was taken."""
        return tuple(reused_line(hit) for hit in self.hits.values())


async def with_earlier_results(
    reach: Reach, order: Order, run: Submission, elsewhere: "Elsewhere | None"
) -> Taken:
    """The run without the jobs that have results already, which become inputs of the others.

    Args:
        elsewhere: Where inputs are looked up beside the agents, if anywhere.

    Raises:
        MeshError: Something that the run takes its input from is not there.
    """
    if order.replan is None or not any(job.artifacts and not job.ports for job in order.plan.jobs):
        return Taken(order.plan, run)
    from dstack_scheduler.inputs import with_inputs
    from dstack_scheduler.reusing import Results, name_of, with_results

    jobs = await with_inputs(run, reach, elsewhere)
    membership = Membership.load(reach.home)
    own_id = membership.peer_id if membership is not None else PeerId("")
    code = reach.store.get_manifest(jobs[-1].spec.code_digest)
    hits = await Results(reach, code, own_id).hits(jobs)
    known = replace(run, jobs=jobs, reuses={})
    if not hits:
        return Taken(order.plan, known)
    named = {jobs[index].spec.workflow: hit for index, hit in hits.items()}
    whole = hits.get(len(jobs) - 1)
    if whole is not None:
        return Taken(order.plan, known, whole, {whole.job.workflow: whole})
    plan = order.replan(named)
    left = await submission(replace(order, plan=plan))
    left = replace(
        left,
        jobs=with_results(
            left.jobs,
            [job.earlier for job in plan.jobs],
            named,
            {name_of(job.spec): job.spec for job in jobs},
        ),
        reuses={},
    )
    return Taken(plan, left, hits=named)


def reused_line(hit: "Hit") -> str:
    """ "reused calm-ibex-1 (prepare), done 2 hours ago; --no-reuse runs it again"."""
    from dstack_cli.output.words import ago

    done = ago(hit.job.state.at, datetime.now(UTC))
    run, workflow = hit.run.run_name, hit.job.workflow
    return f"reused {run} ({workflow}), done {done}; --no-reuse runs it again"


def kept_line(hit: "Hit") -> str:
    """What the earlier run kept, and the next command."""
    from dstack_cli.output.words import count, size

    total = size(sum(artifact.size_bytes for artifact in hit.job.artifacts))
    return f"{count(len(hit.job.artifacts), 'artifact')}, {total}: dstack ls {hit.run.run_name}"
