"""Inputs: every spelling of `depends-on`, `dependencies` and `deps`.

The key decides, not the value: under `depends-on` and `dependencies` a bare name is run first, as
an earlier job of the same run; under `deps` nothing is started and the newest done run is taken. A
tag is looked up under any key. Names split at the first colon: `prepare:v1`, `:v1`,
`owner/repo/prepare`, `:owner/repo/v1`.
"""

import re
from dataclasses import replace

from dstack_scheduler.workflow.model import Dependency, Reader, Workflow
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXTS, Either, ListOf, Scalar, Table, shaped
from dstack_scheduler.workflow.tree import MapNode, Node, ScalarNode, shorten

_NAME = re.compile(r"[^\s:/,;]+\Z")
_INPUTS = ListOf(Either((Scalar.TEXT, Table(lambda: _DEPENDENCY))))
_EXAMPLES = "write prepare, prepare:v1, :v1 or owner/repo/prepare"


@shaped(Either((_INPUTS, Table(lambda: _CHAIN))))
def read_chain(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`depends-on:`, a list, or `{workflows: [a], repo: {include: [src/**]}}`."""
    if isinstance(node, MapNode):
        return scope.walk(workflow, node, _CHAIN, "")
    return _read_list(workflow, node, scope, triggers=True)


@shaped(_INPUTS)
def read_reuses(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`deps:`, a list."""
    return _read_list(workflow, node, scope, triggers=False)


def read_dependency(node: Node, scope: Scope, triggers: bool) -> Dependency | None:
    """One input, as text or as `{workflow: x}` or `{tag: x}`."""
    blank = Dependency(node.place, "", triggers=triggers)
    if not isinstance(node, MapNode):
        text = scope.line(node)
        return None if text is None else _parse(blank, text, node, scope)
    keys = {key.text for key, _ in node.entries}
    if not keys & set(_DEPENDENCY):
        scope.complain(node, Code.BAD_DEPENDENCY, *_accident(node))
        return None
    found = scope.walk(blank, node, _DEPENDENCY, "")
    if len(keys & {"workflow", "tag"}) != 1:
        scope.complain(
            node,
            Code.BAD_DEPENDENCY,
            "A dependency names either a workflow or a tag.",
            "keep one of them, or write workflow:tag as text",
        )
        return None
    return found if found.text else None


def _read_list(workflow: Workflow, node: Node, scope: Scope, *, triggers: bool) -> Workflow:
    found = {_meaning(one): one for one in workflow.dependencies}
    for item in scope.items(node, f"write {scope.key}: [prepare]"):
        dependency = read_dependency(item, scope, triggers)
        if dependency:
            found.setdefault(_meaning(dependency), dependency)
    return replace(workflow, dependencies=tuple(found.values()))


def _meaning(one: Dependency) -> tuple[str, str, str, bool]:
    return one.workflow, one.tag, one.repo, one.triggers


def _parse(blank: Dependency, text: str, node: Node, scope: Scope) -> Dependency | None:
    name, colon, tag = text.strip().partition(":")
    path = name or tag
    if not name:
        tag = ""
    *repo, last = path.split("/")
    parts = [*repo, last, tag] if tag else [*repo, last]
    empty_tag = bool(colon) and bool(name) and not tag
    if empty_tag or len(repo) not in (0, 2) or not all(map(_NAME.match, parts)):
        scope.complain(
            node, Code.BAD_DEPENDENCY, f'"{shorten(text)}" is not a dependency.', _EXAMPLES
        )
        return None
    return replace(
        blank,
        text=text.strip(),
        workflow=last if name else "",
        tag=tag if name else last,
        repo="/".join(repo),
    )


def _accident(node: MapNode) -> tuple[str, str]:
    """What to say of `- prepare: latest`."""
    if len(node.entries) == 1 and isinstance(node.entries[0][1], ScalarNode):
        key, value = node.entries[0][0].text, node.entries[0][1].text
        return (
            f'"{shorten(key)}: {shorten(value)}" is a mapping, not a dependency.',
            f"write {key}:{value} without the space",
        )
    return "The dependency names neither a workflow nor a tag.", "add workflow: prepare or tag: v1"


@shaped(Scalar.TEXT)
def _read_workflow(dependency: Dependency, node: Node, scope: Scope) -> Dependency:
    return _read_part(dependency, node, scope, "")


@shaped(Scalar.TEXT)
def _read_tag(dependency: Dependency, node: Node, scope: Scope) -> Dependency:
    return _read_part(dependency, node, scope, ":")


def _read_part(dependency: Dependency, node: Node, scope: Scope, colon: str) -> Dependency:
    text = scope.line(node)
    if text is None:
        return dependency
    return _parse(dependency, colon + text.strip().removeprefix(colon), node, scope) or dependency


@shaped(Scalar.FLAG)
def _read_mount(dependency: Dependency, node: Node, scope: Scope) -> Dependency:
    # Inputs are laid into the work directory either way; how they get there is the agent's
    # business.
    scope.flag(node)
    return dependency


@shaped(Table(lambda: _REPO))
def _read_repo(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    return scope.walk(workflow, node, _REPO, "write repo: {include: [src/**]}")


@shaped(TEXTS)
def _read_include(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    patterns = [scope.line(item) for item in scope.items(node, "write include: [src/**]")]
    return replace(workflow, counted=tuple(pattern for pattern in patterns if pattern))


@shaped(_INPUTS)
def _read_workflows(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    return _read_list(workflow, node, scope, triggers=True)


_REPO: dict[str, Reader] = {"include": _read_include}
"""Keys below `repo`."""

_CHAIN: dict[str, Reader] = {"workflows": _read_workflows, "repo": _read_repo}
"""Keys below `depends-on`."""

_DEPENDENCY = {"workflow": _read_workflow, "tag": _read_tag, "mount": _read_mount}
"""Keys of a dependency."""
