"""What can be run in a folder: its workflows, and the providers."""

from collections.abc import Mapping

from dstack_cli.output.port import Json, Listing
from dstack_cli.output.table import Column, Table
from dstack_scheduler.providers.port import Provider
from dstack_scheduler.providers.registry import every, provider_of
from dstack_scheduler.workflow.checking import takes
from dstack_scheduler.workflow.command_line import FLAGS, SHORT
from dstack_scheduler.workflow.interpolation import Interpolator, Values
from dstack_scheduler.workflow.model import Option
from dstack_scheduler.workflow.problem import Report, WorkflowProblems
from dstack_scheduler.workflow.project import Project, Written
from dstack_scheduler.workflow.request import Request, complain_of_target, own_flags
from dstack_scheduler.workflow.scope import Scope

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
        raise _unknown(project, target)
    own: Mapping[str, Option] = {}
    if provider is not None:
        own = own_flags(provider, direct=written is None)
        lines += _about_flags(provider, own)
    short = {long: letter for letter, long in SHORT.items()}
    lines += ["", "Flags:"]
    for name, flag in FLAGS.items():
        if name in own:
            continue
        if provider is None or takes(provider, flag.meaning):
            spelled = f"{short[name]}, {name}" if name in short else name
            lines.append(_row(f"{spelled} {flag.example}", flag.about))
    return "\n".join([*lines, "", "Flags of dstack run itself: dstack run --help"])


def _row(spelled: str, about: str) -> str:
    return f"  {spelled.strip():<36} {about}"


def _about_provider(provider: Provider) -> list[str]:
    """How it is run directly: its words, and its keys in a workflow."""
    direct = provider.direct
    lines = [f"Usage: {direct.usage} [FLAGS]", "", f"{provider.about}."]
    words = [*direct.first, *((direct.many,) if direct.many else ())]
    if words:
        lines += ["", "Arguments:"]
        lines += [_row(word.upper(), f"as {provider.keys[word].example}") for word in words]
    if provider.any_key:
        return [*lines, "", "A workflow with this provider may have any keys."]
    lines += ["", f"Keys of a workflow with provider: {provider.name}"]
    spelled: dict[str, list[str]] = {}
    for name, key in provider.keys.items():
        spelled.setdefault(key.example, []).append(name)
    return lines + [_row(", ".join(names), f"as {one}") for one, names in spelled.items()]


def _about_flags(provider: Provider, own: Mapping[str, Option]) -> list[str]:
    """Its own flags, as far as they may be given, in the spellings that may."""
    if not own:
        return []
    lines = ["", f"Flags of {provider.name}:"]
    for one in provider.direct.options:
        spelled = [word for word in one.spellings if word in own]
        if spelled:
            lines.append(_row(f"{', '.join(spelled)} {one.example}", one.about))
    return lines


def _about_workflow(project: Project, written: Written) -> list[str]:
    lines = [f"Usage: dstack run {written.name} [VARIABLES] [FLAGS] [ARGUMENTS]"]
    if written.help:
        lines += ["", written.help]
    variables = Request(project, written).variables_of(written.name)
    if variables:
        lines += ["", "Variables:"]
        lines += [f"  --{name:<20} default {value}" for name, value in variables.items()]
    return lines


def _unknown(project: Project, target: str) -> WorkflowProblems:
    report = Report({})
    complain_of_target(project, target, Scope(report, Interpolator(Values()), target))
    return WorkflowProblems(report.problems)
