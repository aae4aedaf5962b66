"""What can be run in a folder: its workflows, and the providers."""

from collections.abc import Mapping

from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_scheduler.providers.installed import installed
from dstack_scheduler.providers.port import Direct, Provider
from dstack_scheduler.providers.registry import FILES, every, provider_of
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
    providers = [
        (one.name, one.about)
        if isinstance(one, Provider)
        else (one.name, f"cannot be used: {one.why} ({one.package})")
        for one in (*project.providers.values(), *every())
    ]
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
    name = written.provider if written is not None else target
    found = project.providers.get(name) or provider_of(name)
    provider = found if isinstance(found, Provider) else None
    if written is not None:
        lines = _about_workflow(project, written)
    elif provider is not None:
        lines = _about_provider(provider)
    else:
        raise WorkflowProblems([_unknown(project, target)])
    direct = Direct() if provider is None or written is not None else provider.direct
    short = {long: letter for letter, long in SHORT.items()}
    lines += ["", "Flags:"]
    for name, flag in FLAGS.items():
        if name in direct.spelled:
            continue
        if provider is None or takes(provider, flag.meaning):
            spelled = f"{short[name]}, {name}" if name in short else name
            lines.append(_row(f"{spelled} {flag.example}", flag.about))
    return "\n".join([*lines, "", "Flags of dstack run itself: dstack run --help"])


def _row(spelled: str, about: str) -> str:
    return f"  {spelled.strip():<36} {about}"


def _about_provider(provider: Provider) -> list[str]:
    """How it is run directly: its words, its own flags, and its keys in a workflow."""
    direct = provider.direct
    lines = [f"Usage: {direct.usage} [FLAGS]", "", f"{provider.about}."]
    words = [*direct.first, *((direct.many,) if direct.many else ())]
    if words:
        lines += ["", "Arguments:"]
        lines += [_row(word.upper(), f"as {provider.keys[word].example}") for word in words]
    if direct.options:
        lines += ["", f"Flags of {provider.name}:"]
        lines += [
            _row(f"{', '.join(one.spellings)} {one.example}", one.about) for one in direct.options
        ]
    if provider.any_key:
        return [*lines, "", "A workflow with this provider may have any keys."]
    lines += ["", f"Keys of a workflow with provider: {provider.name}"]
    spelled: dict[str, list[str]] = {}
    for name, key in provider.keys.items():
        spelled.setdefault(key.example, []).append(name)
    return lines + [_row(", ".join(names), f"as {one}") for one, names in spelled.items()]


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
        hint=did_you_mean(target, (*project.workflows, *project.providers, *FILES, *installed())),
    )
