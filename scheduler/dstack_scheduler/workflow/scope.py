"""What a reader of a value sees: where it is, which variables there are, where to complain."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from dstack_mesh.frozen import frozen
from dstack_scheduler.workflow.interpolation import Interpolator, Unknown
from dstack_scheduler.workflow.problem import Code, Place, Report, did_you_mean
from dstack_scheduler.workflow.tree import (
    Kind,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    describe,
    is_null,
    shorten,
)

Into = TypeVar("Into")

_SHELL_NAME = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_WHOLE = re.compile(r"\+?[0-9]{1,15}\Z")


@frozen
class Scope:
    """Reads values; whatever is wrong with one becomes a problem and the reader gets None.

    Attributes:
        report: Where problems go.
        interpolator: Puts variables into texts.
        workflow: Name of the workflow.
        key: The key as it was spelled, for problems.
        fills_secrets: Whether placeholders of secrets are filled in where the value is used.
    """

    report: Report
    interpolator: Interpolator
    workflow: str = ""
    key: str = ""
    fills_secrets: bool = False

    def within(self, key: str) -> "Scope":
        """The scope of a key of the mapping that this scope is about."""
        return replace(self, key=f"{self.key}.{key}" if self.key else key)

    def complain(self, at: Node | Place, code: Code, message: str, hint: str = "") -> None:
        """Notes a problem at a value."""
        place = at if isinstance(at, Place) else at.place
        self.report.add(place, code, message, hint, self.workflow, self.key)

    def text(self, node: Node) -> str | None:
        """A text that no shell will see: every variable in it must be declared."""
        text = self.shell(node)
        if text is not None and isinstance(node, ScalarNode):
            for match in _SHELL_NAME.finditer(node.text):
                if match[1] not in self.interpolator.names and f"${match[1]}" in text:
                    self._unknown(node, Unknown(match[0], match[1]))
                    return None
        return text

    def shell(self, node: Node) -> str | None:
        """A text for a shell: names that are not declared stay for it."""
        if not isinstance(node, ScalarNode):
            self.complain(
                node,
                Code.WRONG_TYPE,
                f"{self._this} must be text, not {describe(node)}.",
                _quoting(node),
            )
            return None
        if node.kind is Kind.NULL:
            self.complain_empty(node)
            return None
        result = self.interpolator.put_into(node.text)
        self.report.used.update(result.used)
        if result.secrets and not self.fills_secrets:
            self._misplaced(node, result.secrets[0])
            return None
        for unknown in result.unknown:
            self._unknown(node, unknown)
        return None if result.unknown else result.text

    def line(self, node: Node) -> str | None:
        """A text that must not be empty."""
        text = self.text(node)
        if text is not None and not text.strip():
            self.complain_empty(node)
            return None
        return text

    def flag(self, node: Node) -> bool | None:
        """True or false."""
        text = self.text(node)
        if text is None:
            return None
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        self.complain(
            node,
            Code.WRONG_TYPE,
            f'{self._this} must be true or false, not "{shorten(text)}".',
            "write true or false",
        )
        return None

    def whole(self, node: Node) -> int | None:
        """A whole number from 0; None also if a variable left it empty."""
        text = self.text(node)
        if text is None or self.left_empty(text, node):
            return None
        if _WHOLE.match(text.strip()):
            return int(text)
        self.complain(
            node,
            Code.BAD_NUMBER,
            f'{self._this} must be a whole number from 0, not "{shorten(text)}".',
            "write a number, as 1",
        )
        return None

    def left_empty(self, text: str, node: Node) -> bool:
        """Whether a variable left a value empty, which says nothing."""
        return not text.strip() and isinstance(node, ScalarNode) and "$" in node.text

    def items(self, node: Node, example: str) -> tuple[Node, ...]:
        """The items of a list; an empty one is fine."""
        if isinstance(node, ListNode):
            return node.items
        if is_null(node):
            self.complain_empty(node)
        else:
            self.complain(
                node,
                Code.WRONG_TYPE,
                f"{self._this} must be a list, not {describe(node)}.",
                example,
            )
        return ()

    def walk(
        self,
        into: Into,
        node: Node,
        rows: "Mapping[str, Callable[[Into, Node, Scope], Into]]",
        example: str,
    ) -> Into:
        """Reads a mapping by a table of its keys."""
        if not isinstance(node, MapNode):
            self.complain(
                node,
                Code.WRONG_TYPE,
                f"{self._this} must be a mapping, not {describe(node)}.",
                example,
            )
            return into
        for key, value in node.entries:
            row = rows.get(key.text)
            inner = self.within(key.text)
            if row:
                into = row(into, value, inner)
            else:
                inner.complain(
                    key,
                    Code.UNKNOWN_KEY,
                    f'There is no key "{shorten(key.text)}" in {self.key}.',
                    did_you_mean(key.text, rows),
                )
        return into

    def complain_empty(self, node: Node) -> None:
        """Notes that there is no value."""
        self.complain(
            node, Code.EMPTY, f"{self._this} is empty.", "give it a value or remove the line"
        )

    @property
    def _this(self) -> str:
        return f'"{self.key}"' if self.key else "This"

    def _unknown(self, node: ScalarNode, unknown: Unknown) -> None:
        place = self._place_of(node, unknown.text)
        if not unknown.name:
            self.complain(
                place,
                Code.UNKNOWN_VARIABLE,
                f"{unknown.text} does not name a variable.",
                "write `${{ name }}`",
            )
            return
        self.complain(
            place,
            Code.UNKNOWN_VARIABLE,
            f'There is no variable "{shorten(unknown.name)}".',
            did_you_mean(
                unknown.name,
                self.interpolator.names,
                f"declare it in .dstack/variables.yaml below global: or {self.workflow}:",
            ),
        )

    def _misplaced(self, node: ScalarNode, secret: str) -> None:
        self.complain(
            node,
            Code.BAD_SECRET,
            f"A secret is filled in below env and registry_auth alone, not in {self._this}: "
            "what a command says can be read by others.",
            f'write secrets: [{secret}], and "${secret}" where the shell needs it',
        )

    def _place_of(self, node: ScalarNode, text: str) -> Place:
        """Where a part of a value stands in the file."""
        source = self.report.sources.get(node.place.file, "")
        at = source.find(text, node.start, node.end)
        if at < 0:
            return node.place
        before = source[node.start : at]
        if "\n" not in before:
            return replace(node.place, column=node.place.column + len(before), length=len(text))
        column = len(before) - before.rfind("\n")
        return Place(node.place.file, node.place.line + before.count("\n"), column, len(text))


def _quoting(node: Node) -> str:
    if isinstance(node, MapNode) and len(node.entries) == 1:
        key = node.entries[0][0].text
        return (
            f"a colon and a space make it a mapping: quote the whole text ({shorten(key, 20)}: …)"
        )
    return "write it as one text"
