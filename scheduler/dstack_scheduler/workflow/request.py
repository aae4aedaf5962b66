"""What one `dstack run` asks for: a workflow or a provider, and what is said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import NamedTuple

from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.names import job_id
from dstack_scheduler.providers.choosing import choose, complain_of_provider
from dstack_scheduler.providers.installed import installed
from dstack_scheduler.providers.port import COMMAND, Provider
from dstack_scheduler.providers.registry import FILES, provider_of
from dstack_scheduler.workflow.chain import Links, ancestors_first
from dstack_scheduler.workflow.checking import Checked, check, takes
from dstack_scheduler.workflow.command_line import (
    FLAGS,
    NO_OVERRIDES,
    Overrides,
    Typed,
    override,
    take_apart,
    written,
)
from dstack_scheduler.workflow.interpolation import RUN_ARGS, Interpolator, Values
from dstack_scheduler.workflow.model import Option
from dstack_scheduler.workflow.problem import Code, Place, Report, did_you_mean
from dstack_scheduler.workflow.project import Project, Written
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import ListNode, MapNode, Node, ScalarNode, shorten
from dstack_scheduler.workflow.variables import Finder, find_by_prefix, find_variable

_NO_NAME = RunName("")
_NO_ID = RunId("")

NOTHING = Written("", MapNode(Place(), ()))
"""The target of who only looks."""


@frozen
class Request:
    """A target, and what was typed after it.

    Flags and variables are the target's alone; its dependencies keep theirs. But a variable that
    only dependencies declare goes to them, and a global one to every workflow of the run.
    """

    project: Project
    target: Written
    typed: Typed = field(default_factory=Typed)
    run_name: RunName = _NO_NAME
    run_id: RunId = _NO_ID

    def variables_of(self, name: str) -> dict[str, str]:
        """What a workflow of this run works with."""
        sections, typed = self.project.sections, self.typed.variables
        own = sections.own(name)
        of_target = {**sections.shared, **sections.own(self.target.name)}
        if name == self.target.name:
            return {**of_target, **{k: v for k, v in typed.items() if k in of_target}}
        shared = {known: typed.get(known, default) for known, default in sections.shared.items()}
        given = {k: v for k, v in typed.items() if k in own and k not in of_target}
        return {**shared, **own, **given}

    def scope(self, name: str, report: Report, index: int = 0) -> Scope:
        """Where a workflow of this run is read."""
        values = Values(
            self.variables_of(name),
            self.run_name,
            job_id(self.run_id, index),
            self.typed.rest if name == self.target.name else (),
        )
        return Scope(report, Interpolator(values), name)

    def read(self, workflow: Written, report: Report, index: int = 0) -> Checked:
        """A workflow as this run has it."""
        scope = self.scope(workflow.name, report, index)
        checked = check(workflow, scope, self.project.providers)
        if workflow is not self.target or checked.provider is None:
            return checked
        rest = () if RUN_ARGS in report.used else self.typed.rest
        used = checked.provider.appends_args or (workflow.direct and checked.provider.direct.rest)
        if rest and not used:
            self._complain_of_rest(rest, checked.provider, scope)
        changed = override(checked.workflow, self.typed.overrides, scope)
        if not workflow.direct:
            for key, value in self.typed.keys.items():
                read = checked.provider.keys[key].read
                changed = read(changed, written(value), scope.within(key))
        return Checked(replace(changed, run_args=tuple(rest)), checked.provider)

    def _complain_of_rest(self, rest: Sequence[str], provider: Provider, scope: Scope) -> None:
        word = next((word for word in rest if word.startswith("-")), rest[0])
        known = [
            *(f"--{name}" for name in self.variables_of(self.target.name)),
            *(name for name, flag in FLAGS.items() if takes(provider, flag.meaning)),
            *own_flags(provider, self.target.direct),
        ]
        write = "write ${{ run.args }} into one of its commands, or declare a variable"
        scope.complain(
            Place(),
            Code.UNUSED_ARGUMENTS,
            f'"{self.target.name}" makes no use of {shorten(" ".join(rest))}.',
            did_you_mean(
                word.partition("=")[0],
                known,
                f"dstack run {self.target.name} --help" if self.target.direct else write,
            ),
        )

    def links(self, checked: Mapping[str, Checked]) -> Links:
        """What each workflow runs before itself."""
        return {
            name: [link for link in one.workflow.dependencies if link.chained]
            for name, one in checked.items()
        }


class Asked(NamedTuple):
    """A command line as it was typed, and the names that the run will have."""

    target: str
    args: Sequence[str] = ()
    overrides: Overrides = NO_OVERRIDES
    run_name: RunName = _NO_NAME
    run_id: RunId = _NO_ID


def understand(project: Project, asked: Asked, report: Report) -> Request | None:
    """The request behind a command line; None and a problem if there is no such target."""
    scope = Scope(report, Interpolator(Values()), asked.target)
    workflow = project.workflows.get(asked.target)
    if workflow is not None:
        return _named(project, workflow, asked, scope)
    provider = project.providers.get(asked.target) or provider_of(asked.target)
    if isinstance(provider, Provider):
        return _direct(project, provider, asked, scope)
    complain_of_target(project, asked.target, scope)
    return None


def _named(project: Project, workflow: Written, asked: Asked, scope: Scope) -> Request:
    provider = choose(workflow, Scope(Report({}), scope.interpolator), project.providers)
    declared = _declared(project, workflow) if asked.args else ()

    def taken(scope: Scope, find: Finder) -> Typed:
        return take_apart(
            asked.args,
            declared,
            own_flags(provider, direct=False) if provider is not None else {},
            lambda meaning: provider is not None and takes(provider, meaning),
            scope,
            find,
        )

    # Where a script may want the rest, a word that only begins like a variable is the script's.
    typed = taken(replace(scope, report=Report({})), find_variable)
    find = find_variable if _uses_rest(project, workflow, typed) else find_by_prefix
    return _request(project, workflow, taken(scope, find), asked)


def _uses_rest(project: Project, workflow: Written, typed: Typed) -> bool:
    """Whether what is left of a command line goes anywhere; true if nothing is left."""
    report = Report({})
    provider = Request(project, workflow).read(workflow, report).provider if typed.rest else None
    return provider is None or provider.appends_args or RUN_ARGS in report.used


def own_flags(provider: Provider, direct: bool) -> Mapping[str, Option]:
    """A provider's flags by spelling. A workflow takes the long ones, and none for commands."""
    spelled = provider.direct.spelled
    if direct:
        return spelled
    return {
        spelling: option
        for spelling, option in spelled.items()
        if spelling.startswith("--") and option is not COMMAND
    }


def _direct(project: Project, provider: Provider, asked: Asked, scope: Scope) -> Request:
    typed = take_apart(
        asked.args,
        project.sections.shared,
        provider.direct.spelled,
        lambda meaning: takes(provider, meaning),
        scope,
    )
    keys, rest = dict(typed.keys), list(typed.rest)
    for key in provider.direct.first:
        if rest and not rest[0].startswith("-"):
            keys[key] = rest.pop(0)
    entries = {"provider": provider.name, **keys}.items()
    nodes: list[tuple[ScalarNode, Node]] = [(written(key), written(each)) for key, each in entries]
    if provider.direct.many and rest:
        words = ListNode(Place(), tuple(written(word) for word in rest))
        nodes.append((written(provider.direct.many), words))
        rest = []
    node = MapNode(Place(), tuple(nodes))
    workflow = Written(provider.name, node, provider.name, direct=True)
    return _request(project, workflow, replace(typed, rest=tuple(rest)), asked)


def _request(project: Project, workflow: Written, typed: Typed, asked: Asked) -> Request:
    merged = replace(typed, overrides=typed.overrides.over(asked.overrides))
    return Request(project, workflow, merged, asked.run_name, asked.run_id)


def _declared(project: Project, workflow: Written) -> tuple[str, ...]:
    """Variables that may be given: the workflow's own, global ones, those of what it depends on."""
    blank = Request(project, workflow)
    links = blank.links(
        {name: blank.read(one, Report({})) for name, one in project.workflows.items()}
    )
    declared = {**project.sections.own(workflow.name), **project.sections.shared}
    for name in reversed(ancestors_first(workflow.name, links)):
        for variable, default in project.sections.own(name).items():
            if find_variable(variable, declared) is None:
                declared[variable] = default
    return tuple(declared)


def complain_of_target(project: Project, target: str, scope: Scope) -> None:
    """Says why there is nothing of that name to run."""
    base = target.partition("@")[0]
    if base in FILES or provider_of(target) is not None:
        complain_of_provider(written(target), target, scope)
        return
    where = "" if project.workflows else " (there are no workflows in .dstack)"
    write = "" if project.workflows else "write workflows, a first one with: dstack init"
    scope.complain(
        Place(),
        Code.UNKNOWN_WORKFLOW,
        f'There is no workflow or provider "{shorten(target)}"{where}.',
        did_you_mean(target, (*project.workflows, *project.providers, *FILES, *installed()), write),
    )
