"""Keys that only one provider knows: text, kept beside what every workflow has."""

import re
from dataclasses import replace

from dstack_scheduler.workflow.model import Key, Workflow
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXT_OR_TEXTS, Scalar, shaped
from dstack_scheduler.workflow.tree import ListNode, Node, shorten

_VERSION = re.compile(r"[0-9][0-9A-Za-z.*+!_-]*\Z")
_RUN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}\Z")


def option(name: str, example: str) -> Key:
    """A key whose value is one line."""

    @shaped(Scalar.TEXT)
    def read(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        return with_option(workflow, name, scope.line(node) or "")

    return Key(name, read, example)


def with_option(workflow: Workflow, name: str, value: str) -> Workflow:
    return replace(workflow, options={**workflow.options, name: value})


def tool_version(name: str = "version") -> Key:
    """A key that says which version of a tool is installed."""

    @shaped(Scalar.TEXT)
    def read(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        text = scope.text(node)
        if not text or _VERSION.match(text):
            return with_option(workflow, name, text or "")
        scope.complain(
            node,
            Code.BAD_NAME,
            f'"{shorten(text)}" is not a version.',
            f"write {name}: 4.2.5, or leave it out for any",
        )
        return workflow

    return Key(name, read, f"{name}: 4.2.5")


@shaped(TEXT_OR_TEXTS)
def read_runs(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`runs:`, a list of names of runs, or one name."""
    items = node.items if isinstance(node, ListNode) else (node,)
    if not items:
        scope.complain_empty(node)
    names: list[str] = []
    for item in items:
        text = scope.line(item)
        if text is not None and not _RUN.match(text):
            scope.complain(
                item,
                Code.BAD_NAME,
                f'"{shorten(text)}" is not the name of a run.',
                "write runs: [lazy-bobcat-1]; `dstack ps -a` lists them",
            )
        elif text:
            names.append(text)
    return with_option(workflow, "runs", " ".join(dict.fromkeys(names)))


RUNS = Key("runs", read_runs, "runs: [lazy-bobcat-1]")
