"""Everything that a repository's `.dstack` folder says, read once; workflows are still trees."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING

from dstack_mesh.frozen import frozen
from dstack_scheduler.workflow.document import SourceFile, decode, read_tree
from dstack_scheduler.workflow.problem import Code, Problem, Report, did_you_mean
from dstack_scheduler.workflow.templates import read_templates, with_template
from dstack_scheduler.workflow.tree import (
    MapNode,
    Node,
    ScalarNode,
    describe,
    find,
    is_null,
    shorten,
)
from dstack_scheduler.workflow.variables import Sections, read_sections

if TYPE_CHECKING:
    from dstack_scheduler.providers.port import Provider

_NAME = re.compile(r"[^\s:/,;\-$][^\s:/,;$]*\Z")


@frozen
class Written:
    """A workflow as it was written, or as the command line says it.

    Attributes:
        provider: As written; empty if there is none.
        help: One line for people.
        direct: Made by `dstack run PROVIDER`.
    """

    name: str
    node: MapNode
    provider: str = ""
    help: str = ""
    direct: bool = False


@frozen
class Project:
    """What the files say.

    Attributes:
        workflows: By name, in the order of the files.
        nameless: Workflows without a usable name of their own: checked, but never run.
        sections: Variables.
        providers: Own ones, by name.
        problems: Found while reading; more are found in the workflows themselves.
        whole: Every file could be read, so a name that is not here does not exist.
        sources: Text of each file.
    """

    workflows: Mapping[str, Written] = field(default_factory=dict[str, Written])
    nameless: tuple[Written, ...] = ()
    sections: Sections = field(default_factory=Sections)
    providers: "Mapping[str, Provider]" = field(default_factory=dict[str, "Provider"])
    problems: tuple[Problem, ...] = ()
    whole: bool = True
    sources: Mapping[str, str] = field(default_factory=dict[str, str])


def read_project(
    workflows: Iterable[SourceFile],
    variables: Iterable[SourceFile],
    templates: Iterable[SourceFile] = (),
    providers: Sequence[SourceFile] = (),
) -> Project:
    """Reads the files in their order. Never raises: what is wrong is in `problems`."""
    sources: dict[str, str] = {}
    report = Report(sources)
    template_trees, templates_read = _trees(templates, sources, report)
    known = read_templates(template_trees, report)
    trees, workflows_read = _trees(workflows, sources, report)
    found: dict[str, Written] = {}
    nameless: list[Written] = []
    for tree in trees:
        for node in _workflow_nodes(tree, report):
            if isinstance(node, MapNode):
                _add_workflow(with_template(node, known, report), found, nameless, report)
            else:
                _complain_of_item(node, report)
    variable_trees, variables_read = _trees(variables, sources, report)
    sections = read_sections(variable_trees, report)
    own, providers_read = _own(providers, sources, report)
    whole = workflows_read and variables_read and templates_read and providers_read
    return Project(found, tuple(nameless), sections, own, tuple(report.problems), whole, sources)


def _own(
    files: Sequence[SourceFile], sources: dict[str, str], report: Report
) -> "tuple[Mapping[str, Provider], bool]":
    if not files:
        return {}, True
    from dstack_scheduler.providers.own import read_own  # most projects have none
    from dstack_scheduler.providers.registry import FILES

    trees, whole = _trees(files, sources, report)
    return read_own(trees, report, FILES), whole


def _trees(
    files: Iterable[SourceFile], sources: dict[str, str], report: Report
) -> tuple[list[Node], bool]:
    trees: list[Node] = []
    whole = True
    for source in files:
        before = len(report.problems)
        text = decode(source, report)
        tree = None
        if text is not None:
            sources[source.path] = text
            tree = read_tree(source.path, text, report)
        if tree is not None and not is_null(tree):
            trees.append(tree)
        whole = whole and (tree is not None or len(report.problems) == before)
    return trees, whole


def _workflow_nodes(tree: Node, report: Report) -> Iterable[Node]:
    if not isinstance(tree, MapNode):
        report.add(
            tree.place,
            Code.WRONG_TYPE,
            f"The file must be a mapping, not {describe(tree)}.",
            "begin it with `workflows:` and put the workflows below",
        )
        return
    for key, value in tree.entries:
        if key.text != "workflows":
            _complain_of_root_key(key, report)
        elif isinstance(value, MapNode) or (isinstance(value, ScalarNode) and not is_null(value)):
            report.add(
                value.place,
                Code.WRONG_TYPE,
                f'"workflows" must be a list, not {describe(value)}.',
                "begin each workflow with `- name: train`",
                key=key.text,
            )
        elif not isinstance(value, ScalarNode):
            yield from value.items


def _complain_of_root_key(key: ScalarNode, report: Report) -> None:
    elsewhere = {
        "variables": "put variables into .dstack/variables.yaml",
        "templates": "put templates into .dstack/templates.yaml",
        "providers": "put own providers into .dstack/providers.yaml",
    }
    report.add(
        key.place,
        Code.UNKNOWN_KEY,
        f'There is no key "{shorten(key.text)}" at the top of a workflows file.',
        elsewhere.get(key.text) or did_you_mean(key.text, ("workflows",)),
        key=key.text,
    )


def _complain_of_item(node: Node, report: Report) -> None:
    report.add(
        node.place,
        Code.WRONG_TYPE,
        f"A workflow must be a mapping, not {describe(node)}.",
        "write `- name: train`, and its other keys below the n",
        key="workflows",
    )


def _add_workflow(
    node: MapNode, found: dict[str, Written], nameless: list[Written], report: Report
) -> None:
    name = _name_of(node, report)
    text = name.text if name else ""
    written = Written(text, node, _text_of(node, "provider"), _text_of(node, "help"))
    if name and text in found:
        first = find(found[text].node, ("name",))
        place = first[1].place if first else found[text].node.place
        report.add(
            name.place,
            Code.DUPLICATE_WORKFLOW,
            f'There are two workflows "{text}"; the other one is at {place}.',
            "rename one of them",
            text,
            "name",
        )
    if name and text not in found:
        found[text] = written
    else:
        nameless.append(written)


def _name_of(node: MapNode, report: Report) -> ScalarNode | None:
    entry = find(node, ("name",))
    if entry is None:
        keys = [key.text for key, _ in node.entries]
        near = next((key for key in keys if key.lower().strip() in ("id", "nam", "names")), None)
        hint = f'did you mean "name" where it says "{near}"?' if near else "add name: train"
        report.add(node.place, Code.MISSING_KEY, "The workflow has no name.", hint, key="name")
        return None
    name = entry[1]
    if isinstance(name, ScalarNode) and not is_null(name) and _NAME.match(name.text):
        return name
    report.add(
        name.place,
        Code.BAD_NAME,
        f"A workflow cannot be named {describe(name)}.",
        "use letters, digits, - and _",
        key="name",
    )
    return None


def _text_of(node: MapNode, key: str) -> str:
    entry = find(node, (key,))
    return entry[1].text if entry and isinstance(entry[1], ScalarNode) else ""
