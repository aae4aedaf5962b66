"""`template:` in a workflow: keys that it takes from `.dstack/templates.yaml`, or writes out in it.

A template holds keys of workflows, as `image`, `commands` and `resources`. What the workflow says
itself comes first; everything else is as if it stood in the workflow, places of mistakes included.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from dstack_scheduler.workflow.problem import Code, Report, did_you_mean
from dstack_scheduler.workflow.tree import (
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    describe,
    find,
    is_null,
    shorten,
)

KEY = "template"
_OF_ITSELF = frozenset({"name", "help", KEY})

Templates = Mapping[str, MapNode]


def read_templates(trees: Iterable[Node], report: Report) -> Templates:
    """The templates of all files by name; a name that is given twice is a problem."""
    found: dict[str, MapNode] = {}
    for item in (item for tree in trees for item in _items(tree, report)):
        name = find(item, ("name",)) if isinstance(item, MapNode) else None
        if name is None or not isinstance(name[1], ScalarNode) or not isinstance(item, MapNode):
            _complain(item, Code.MISSING_KEY, "The template has no name.", "add name: x", report)
        elif name[1].text in found:
            message = f'There are two templates "{shorten(name[1].text)}".'
            _complain(name[1], Code.SAID_TWICE, message, "rename one of them", report)
        else:
            found[name[1].text] = item
    return found


def with_template(workflow: MapNode, templates: Templates, report: Report) -> MapNode:
    """The workflow with what its template says and it does not say itself."""
    entry = find(workflow, (KEY,))
    template = None if entry is None else _meant(entry[1], templates, report)
    if template is None:
        return workflow
    own = {key.text for key, _ in workflow.entries} | _OF_ITSELF
    taken = ((key, value) for key, value in template.entries if key.text not in own)
    return replace(workflow, entries=(*workflow.entries, *taken))


def _meant(node: Node, templates: Templates, report: Report) -> MapNode | None:
    if isinstance(node, MapNode):
        return node
    if not isinstance(node, ScalarNode) or is_null(node):
        message = f"A template is a name or a mapping, not {describe(node)}."
        _complain(node, Code.WRONG_TYPE, message, "write template: NAME", report)
        return None
    if node.text not in templates:
        message = f'There is no template "{shorten(node.text)}" in .dstack/templates.yaml.'
        hint = did_you_mean(node.text, templates, "write it there, or write out the keys here")
        _complain(node, Code.UNKNOWN_TEMPLATE, message, hint, report)
    return templates.get(node.text)


def _items(tree: Node, report: Report) -> Iterable[Node]:
    entry = find(tree, ("templates",)) if isinstance(tree, MapNode) else None
    if entry is None or not isinstance(tree, MapNode) or len(tree.entries) > 1:
        message = "A file of templates holds one list, `templates`."
        _complain(tree, Code.WRONG_TYPE, message, "begin it with `templates:`", report)
    if entry is None or is_null(entry[1]):
        return ()
    if isinstance(entry[1], ListNode):
        return entry[1].items
    message = f'"templates" must be a list, not {describe(entry[1])}.'
    _complain(entry[1], Code.WRONG_TYPE, message, "begin each with `- name: x`", report)
    return ()


def _complain(node: Node, code: Code, message: str, hint: str, report: Report) -> None:
    report.add(node.place, code, message, hint, key=KEY)
