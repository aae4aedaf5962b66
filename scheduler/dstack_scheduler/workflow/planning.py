"""From a project and a command line to the jobs of one run, or to everything that is wrong."""

import posixpath
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.plan import Plan, PlannedJob
from dstack_scheduler.providers.port import nodes_of
from dstack_scheduler.workflow.chain import Links, ancestors, ancestors_first, cycles
from dstack_scheduler.workflow.checking import Checked
from dstack_scheduler.workflow.command_line import NO_OVERRIDES, Overrides
from dstack_scheduler.workflow.model import Dependency, Workflow
from dstack_scheduler.workflow.problem import (
    Code,
    Problem,
    Report,
    WorkflowProblems,
    did_you_mean,
    in_order,
)
from dstack_scheduler.workflow.project import Project
from dstack_scheduler.workflow.request import NOTHING, Asked, Request, understand


def plan(
    project: Project,
    target: str,
    args: Sequence[str] = (),
    overrides: Overrides = NO_OVERRIDES,
    *,
    run_name: RunName,
    run_id: RunId,
    earlier: Collection[str] = (),
) -> Plan:
    """The jobs of `dstack run TARGET ARGS`, what they depend on first.

    Args:
        target: A workflow or, if there is none of that name, a provider.
        args: As typed: variables, flags and the script's arguments in any order.
        overrides: Flags that the caller has already; those in `args` win.
        earlier: Workflows that are not run, since they have results already.

    Raises:
        WorkflowProblems: With everything that is wrong in the files and on the command line. What
            this version cannot do yet counts only in workflows that the run needs.
    """
    findings = _study(project, Asked(target, args, overrides, run_name, run_id))
    if findings.request is None or findings.problems:
        raise WorkflowProblems(findings.problems)
    return _jobs(findings.request, findings.links, earlier)


def find_problems(project: Project, target: str | None = None) -> tuple[Problem, ...]:
    """What is wrong in the files: all of it, or what keeps one workflow from running."""
    if target is None:
        nothing = Request(project, NOTHING)
        return in_order((*project.problems, *_read_all(nothing).problems))
    findings = _study(project, Asked(target))
    needed = {"", *ancestors_first(target, findings.links)}
    return tuple(problem for problem in findings.problems if problem.workflow in needed)


class _Findings(NamedTuple):
    """What a look at all workflows brought: what runs before what, and what is wrong."""

    links: Links
    problems: tuple[Problem, ...]
    request: Request | None = None


def _study(project: Project, asked: Asked) -> _Findings:
    """Understands a command line and reads every workflow as it would then be."""
    report = Report(project.sources)
    request = understand(project, asked, report)
    found = _read_all(request or Request(project, NOTHING))
    if request is None and not project.whole:
        # The target may well be in the file that could not be read.
        report.problems.clear()
    needed = ancestors_first(asked.target, found.links)
    problems = (
        problem
        for problem in (*project.problems, *report.problems, *found.problems)
        if problem.code is not Code.NOT_SUPPORTED_YET or problem.workflow in needed
    )
    return _Findings(found.links, in_order(problems), request)


def _read_all(request: Request) -> _Findings:
    project = request.project
    workflows = dict(project.workflows)
    if request.target.direct:
        workflows[request.target.name] = request.target
    problems: list[Problem] = []
    checked: dict[str, Checked] = {}
    for number, written in enumerate((*project.nameless, *workflows.values())):
        report = Report(project.sources)
        one = request.read(written, report)
        _complain_of_unknown(one.workflow.dependencies, request, written.name, report)
        if number >= len(project.nameless):
            checked[written.name] = one
        problems.extend(report.problems)
    links = request.links(checked)
    report = Report(project.sources)
    _complain_of_cycles(links, report)
    return _Findings(links, (*problems, *report.problems), request)


def _complain_of_unknown(
    dependencies: Iterable[Dependency], request: Request, workflow: str, report: Report
) -> None:
    """Names that are no workflow; with a tag or of another repository they may be anything."""
    known = request.project.workflows
    for link in dependencies:
        if link.tag or link.repo or link.workflow in known or not request.project.whole:
            continue
        report.add(
            link.place,
            Code.UNKNOWN_WORKFLOW,
            f'There is no workflow "{link.workflow}".',
            did_you_mean(link.workflow, known) or "write the workflow, or name a tag as :v1",
            workflow,
            "depends-on" if link.triggers else "deps",
        )


def _complain_of_cycles(links: Links, report: Report) -> None:
    for cycle in cycles(links):
        itself = len(cycle.names) == 2
        report.add(
            cycle.closing.place,
            Code.CYCLE,
            f'The workflow "{cycle.names[0]}" depends on itself.'
            if itself
            else f"These workflows wait for each other: {' -> '.join(cycle.names)}.",
            "write it under deps: to take its newest done run"
            if itself
            else "remove one of the dependencies, or write it under deps:",
            cycle.names[-2],
            "depends-on",
        )


def plan_all(
    project: Project, *, run_name: RunName, run_id: RunId, first: int
) -> tuple[PlannedJob, ...]:
    """Every workflow of a project as jobs of a run that has `first` jobs already.

    Raises:
        WorkflowProblems: With everything that is wrong.
    """
    findings = _read_all(Request(project, NOTHING, run_name=run_name, run_id=run_id))
    if problems := in_order((*project.problems, *findings.problems)):
        raise WorkflowProblems(problems)
    assert findings.request is not None
    walks = (ancestors_first(name, findings.links) for name in project.workflows)
    order = tuple(dict.fromkeys(name for walk in walks for name in walk))
    return _in_order(findings.request, order, findings.links, first)


def _jobs(request: Request, links: Links, earlier: Collection[str]) -> Plan:
    """The jobs of a request in which nothing is wrong."""
    order = ancestors_first(request.target.name, links)
    jobs = _in_order(request, order, links, 0, earlier)
    effective = {**jobs[-1].variables, **request.typed.variables}
    return Plan(request.target.name, jobs, effective)


def _in_order(
    request: Request,
    order: Sequence[str],
    links: Links,
    first: int,
    earlier: Collection[str] = (),
) -> tuple[PlannedJob, ...]:
    before = ancestors(order, links)
    indexes: dict[str, list[int]] = {}
    jobs: list[PlannedJob] = []
    for name in (name for name in order if name not in earlier):
        after = tuple(index for other in before[name] for index in indexes.get(other, ()))
        done = tuple(other for other in before[name] if other in earlier)
        made = _jobs_of(request, name, first + len(jobs), after)
        mine = [replace(job, earlier=done) for job in made]
        # Node 0 stands for its gang: it alone keeps artifacts.
        indexes[name] = [job.index for job in mine if job.node is None or job.node.rank == 0]
        jobs.extend(mine)
    return tuple(jobs)


def _jobs_of(
    request: Request, name: str, first: int, after: tuple[int, ...]
) -> tuple[PlannedJob, ...]:
    report = Report(request.project.sources)
    written = request.target if name == request.target.name else request.project.workflows[name]
    checked = request.read(written, report, first)
    if checked.provider is None:
        return ()
    reuses = tuple(link.reuse for link in checked.workflow.dependencies if not link.chained)
    made = checked.provider.jobs(checked.workflow, request.variables_of(name))
    jobs = [node for job in made for node in nodes_of(job, checked.workflow.nodes)]
    return tuple(
        replace(
            job,
            index=first + step,
            after=after,
            reuses=(*job.reuses, *reuses),
            counted=_counted(checked.workflow, job),
        )
        for step, job in enumerate(jobs)
    )


def _counted(workflow: Workflow, job: PlannedJob) -> tuple[str, ...]:
    """Patterns of the files that count, those among them that the workflow names itself."""
    if not workflow.counted:
        return ()
    words = [word for install in job.installs for word in shlex.split(install)]
    listed = [name for flag, name in pairwise(words) if flag in ("-r", "--requirement")]
    listed += [word for word in words if word.endswith((".yaml", ".yml"))]
    named = filter(None, (workflow.requirements, workflow.script, *listed))
    own = (posixpath.join(workflow.working_dir, name) for name in named)
    return tuple(dict.fromkeys((*workflow.counted, *own)))
