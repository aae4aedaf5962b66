"""What can be run in a folder: its workflows, and the providers."""

from collections.abc import Mapping

from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_scheduler.providers.registry import PROVIDERS
from dstack_scheduler.workflow.checking import takes
from dstack_scheduler.workflow.command_line import FLAGS, SHORT
from dstack_scheduler.workflow.problem import (
    Code,
    Place,
    Problem,
    WorkflowProblems,
    did_you_mean,
)
from dstack_scheduler.workflow.project import Project, Written
from dstack_scheduler.workflow.request import Request

SCHEMA = "dstack.targets/v1"


def targets_listing(project: Project) -> Listing:
    """Workflows, then providers."""
    workflows = [
        (one.name, one.provider or "image", one.help) for one in project.workflows.values()
    ]
    providers = [(one.name, one.about) for one in PROVIDERS.values()]
    items: list[Mapping[str, Json]] = [
        {"name": name, "kind": "workflow", "provider": provider, "help": about}
        for name, provider, about in workflows
    ]
    items += [{"name": name, "kind": "provider", "help": about} for name, about in providers]
    rows = [(name, f"workflow ({provider})", about) for name, provider, about in workflows]
    rows += [(name, "provider", about) for name, about in providers]
    return Listing(
        schema=SCHEMA,
        items=items,
        table=Table((Column("NAME"), Column("WHAT", 1), Column("", 2)), tuple(rows)),
        names=[str(item["name"]) for item in items],
    )


def help_of(project: Project, target: str) -> str:
    """How to run a workflow or a provider: its variables, its flags, its arguments.

    Raises:
        WorkflowProblems: There is none of that name.
    """
    written = project.workflows.get(target)
    provider = PROVIDERS.get(written.provider if written is not None else target)
    if written is not None:
        lines = _about_workflow(project, written)
    elif provider is not None:
        lines = [f"Usage: {provider.direct.usage}", "", f"{provider.about}."]
    else:
        raise WorkflowProblems([_unknown(project, target)])
    short = {long: letter for letter, long in SHORT.items()}
    lines += ["", "Flags:"]
    for name, flag in FLAGS.items():
        if provider is None or takes(provider, flag.meaning):
            spelled = f"{short[name]}, {name}" if name in short else name
            lines.append(f"  {f'{spelled} {flag.example}'.strip():<36} {flag.about}")
    return "\n".join([*lines, "", "Flags of dstack run itself: dstack run --help"])


def _about_workflow(project: Project, written: Written) -> list[str]:
    lines = [f"Usage: dstack run {written.name} [VARIABLES] [FLAGS] [ARGUMENTS]"]
    if written.help:
        lines += ["", written.help]
    variables = Request(project, written).variables_of(written.name)
    if variables:
        lines += ["", "Variables:"]
        lines += [f"  --{name:<20} default {value}" for name, value in variables.items()]
    return lines


def _unknown(project: Project, target: str) -> Problem:
    place = Place()
    return Problem(
        file=place.file,
        line=place.line,
        column=place.column,
        workflow="",
        key="",
        code=Code.UNKNOWN_WORKFLOW,
        message=f'There is no workflow or provider "{target}".',
        hint=did_you_mean(target, (*project.workflows, *PROVIDERS)),
    )
