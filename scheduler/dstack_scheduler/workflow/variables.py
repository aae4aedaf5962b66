"""Variables: the sections of `.dstack/variables.yaml`, and which of them a workflow sees."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field

from dstack_mesh.frozen import frozen
from dstack_scheduler.workflow.problem import Code, Report, did_you_mean
from dstack_scheduler.workflow.tree import (
    Kind,
    MapNode,
    Node,
    ScalarNode,
    describe,
    is_null,
    shorten,
)

GLOBAL = "global"

Finder = Callable[[str, Iterable[str]], str | None]
"""The declared variable that a name on the command line means."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")


@frozen
class Sections:
    """Defaults as they were written, by section and name."""

    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    def own(self, workflow: str) -> Mapping[str, str]:
        """Variables of the workflow's own section."""
        return self.sections.get(workflow, {})

    @property
    def shared(self) -> Mapping[str, str]:
        """Variables of every workflow."""
        return self.sections.get(GLOBAL, {})

    def seen_by(self, workflow: str, overrides: Mapping[str, str]) -> dict[str, str]:
        """What a workflow works with: global, then its own, then what the command line says."""
        return {**self.shared, **self.own(workflow), **overrides}


def same_name(one: str, other: str) -> bool:
    """`batch-size` and `batch_size` are one variable."""
    return one.replace("-", "_") == other.replace("-", "_")


def find_variable(name: str, declared: Iterable[str]) -> str | None:
    """The variable as it was declared."""
    names = tuple(declared)
    if name in names:
        return name
    return next((known for known in names if same_name(known, name)), None)


def find_by_prefix(name: str, declared: Iterable[str]) -> str | None:
    """The variable of that name, or the only one that begins with it."""
    names = tuple(declared)
    begun = [known for known in names if same_name(known[: len(name)], name)]
    return find_variable(name, names) or (begun[0] if name and len(begun) == 1 else None)


def read_sections(trees: Iterable[Node], report: Report) -> Sections:
    """The sections of all files; a name that is given twice is a problem."""
    sections: dict[str, dict[str, str]] = {}
    for tree in trees:
        for name, node in _variables(tree, report):
            _read_section(name, node, sections.setdefault(name.text, {}), report)
    return Sections(sections)


def _variables(tree: Node, report: Report) -> Iterable[tuple[ScalarNode, Node]]:
    if not isinstance(tree, MapNode):
        report.add(
            tree.place,
            Code.WRONG_TYPE,
            f"The file must be a mapping, not {describe(tree)}.",
            "begin it with `variables:`",
        )
        return
    for key, value in tree.entries:
        if key.text != "variables":
            report.add(
                key.place,
                Code.UNKNOWN_KEY,
                f'There is no key "{shorten(key.text)}" at the top of a variables file.',
                did_you_mean(key.text, ("variables",)),
                key=key.text,
            )
        elif isinstance(value, MapNode):
            yield from value.entries
        elif not is_null(value):
            report.add(
                value.place,
                Code.WRONG_TYPE,
                f'"variables" must be a mapping, not {describe(value)}.',
                "write a section such as `global:` and below it `name: value`",
                key=key.text,
            )


def _read_section(name: ScalarNode, node: Node, into: dict[str, str], report: Report) -> None:
    if is_null(node):
        return
    if not isinstance(node, MapNode):
        report.add(
            node.place,
            Code.WRONG_TYPE,
            f'The section "{shorten(name.text)}" must be a mapping, not {describe(node)}.',
            f"write it below `global:` or the name of a workflow, as {shorten(name.text)}: value",
            workflow=name.text,
            key=f"variables.{name.text}",
        )
        return
    taken = {known.replace("-", "_"): known for known in into}
    for key, value in node.entries:
        if _is_variable(name.text, key, value, taken, report):
            assert isinstance(value, ScalarNode)
            into[key.text] = "" if value.kind is Kind.NULL else value.text
            taken[key.text.replace("-", "_")] = key.text


def _is_variable(
    section: str, key: ScalarNode, value: Node, taken: Mapping[str, str], report: Report
) -> bool:
    where = f"variables.{section}.{key.text}"
    if not _NAME.match(key.text):
        report.add(
            key.place,
            Code.BAD_NAME,
            f'"{shorten(key.text)}" cannot be the name of a variable.',
            "use letters, digits, - and _, and begin with a letter",
            section,
            where,
        )
        return False
    if not isinstance(value, ScalarNode):
        report.add(
            value.place,
            Code.WRONG_TYPE,
            f'The variable "{key.text}" must be one value, not {describe(value)}.',
            "write it as text, in quotes if need be",
            section,
            where,
        )
        return False
    twin = taken.get(key.text.replace("-", "_"))
    if twin:
        report.add(
            key.place,
            Code.SAID_TWICE,
            f'The variable "{key.text}" is there already, as "{twin}".',
            "keep one of them",
            section,
            where,
        )
        return False
    return True
