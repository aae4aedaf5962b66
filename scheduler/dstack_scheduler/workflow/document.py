"""Reads YAML into a tree, within limits, and says in words what is wrong with it.

The parser is libyaml's; the values are those of YAML 1.2 and stay as they were written. Trees are
made from events and not by `yaml.compose`, whose recursion a file of a few kilobytes can exhaust.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from dstack_scheduler.workflow.problem import Code, Place, Report
from dstack_scheduler.workflow.syntax import MAX_DEPTH, TOO_DEEP, in_words, tab_indentation
from dstack_scheduler.workflow.tree import (
    Kind,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    plain_kind,
    shorten,
)

MAX_BYTES = 256 * 1024
MAX_ALIASES = 100
MAX_NODES = 50_000
"""Values of one file, aliases written out: ten lines of aliases can stand for billions."""

_TAGS = {
    "!": Kind.TEXT,
    "tag:yaml.org,2002:str": Kind.TEXT,
    "tag:yaml.org,2002:int": None,
    "tag:yaml.org,2002:float": None,
    "tag:yaml.org,2002:bool": None,
    "tag:yaml.org,2002:null": None,
    "tag:yaml.org,2002:map": None,
    "tag:yaml.org,2002:seq": None,
}
"""Tags that YAML itself has, and the kind that they force; None leaves it to the text."""

_parse: Callable[..., Iterator[yaml.Event]] = yaml.parse  # pyright: ignore
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class SourceFile(NamedTuple):
    """A file as it was read. `trouble` says why it could not be, `fix` what to do about it."""

    path: str
    data: bytes = b""
    trouble: str = ""
    fix: str = ""


class _Refused(Exception):
    def __init__(self, place: Place, code: Code, message: str, hint: str) -> None:
        super().__init__(message)
        self.place = place
        self.code = code
        self.message = message
        self.hint = hint


class _Built(NamedTuple):
    """A finished part, its number of values and its height, both with aliases written out."""

    node: Node
    size: int = 1
    height: int = 1


@dataclass(slots=True, eq=False)
class _Open:
    """A list or mapping that is being read."""

    place: Place
    anchor: str | None
    mapping: bool
    parts: list[_Built] = field(default_factory=list[_Built])


def decode(source: SourceFile, report: Report) -> str | None:
    """The text of a file, or a problem."""
    if source.trouble:
        report.add(Place(source.path, 1, 1), Code.UNREADABLE, source.trouble, source.fix)
        return None
    if len(source.data) > MAX_BYTES:
        report.add(
            Place(source.path, 1, 1),
            Code.TOO_LARGE,
            f"The file is larger than {MAX_BYTES // 1024} KiB.",
            "split it into several files below .dstack/workflows/",
        )
        return None
    try:
        return source.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.data.count(b"\n", 0, error.start) + 1
        column = error.start - source.data.rfind(b"\n", 0, error.start)
        report.add(
            Place(source.path, line, column),
            Code.ENCODING,
            f"Byte 0x{source.data[error.start]:02x} is not UTF-8.",
            "save the file as UTF-8",
        )
        return None


def read_tree(file: str, text: str, report: Report) -> Node | None:
    """The tree of a file; None if it is empty or broken. Broken ones leave a problem."""
    reader = _Reader(file, text, report)
    try:
        return reader.read()
    except _Refused as refused:
        report.add(refused.place, refused.code, refused.message, refused.hint)
    except yaml.MarkedYAMLError as error:
        reader.explain(error)
    except yaml.YAMLError as error:
        report.add(Place(file, 1, 1), *in_words(str(error)))
    return None


class _Reader:
    def __init__(self, file: str, text: str, report: Report) -> None:
        self._file = file
        self._text = text
        self._report = report
        self._anchors: dict[str, _Built] = {}
        self._aliases = 0
        self._open: list[_Open] = []
        self._root: _Built | None = None

    def read(self) -> Node | None:
        documents = 0
        for event in _parse(self._text, Loader=_LOADER):
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        self._refuse(
                            self._place(event),
                            Code.SYNTAX,
                            "There is a second document in the file.",
                            "remove the line `---`, or use a file of its own",
                        )
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._start(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._end()
                case _:
                    pass
        return self._root.node if self._root else None

    def explain(self, error: yaml.MarkedYAMLError) -> None:
        """Turns the parser's error into a problem."""
        # Where something was opened says more than where its end was missed.
        opened = "end of stream" in str(error.problem) or "',' or" in str(error.problem)
        mark = (opened and error.context_mark) or error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        tab = tab_indentation(self._text.splitlines(), line)
        if tab:
            self._report.add(
                Place(self._file, *tab),
                Code.TAB,
                "The line is indented with a tab, which YAML does not allow.",
                "indent with spaces",
            )
            return
        self._report.add(
            Place(self._file, line + 1, column + 1), *in_words(str(error.problem or error.context))
        )

    def _place(self, event: yaml.Event, length: int = 1) -> Place:
        mark = event.start_mark
        assert mark is not None  # libyaml always says
        return Place(self._file, mark.line + 1, mark.column + 1, length)

    def _refuse(self, place: Place, code: Code, message: str, hint: str) -> None:
        raise _Refused(place, code, message, hint)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        first, last = event.start_mark, event.end_mark
        assert first is not None
        assert last is not None
        start, end = first.index, last.index
        plain = event.style in (None, "")
        one_line = first.line == last.line
        place = self._place(event, max(1, end - start) if one_line else 1)
        forced = self._kind_of_tag(place, event.tag)
        kind = forced or (plain_kind(event.value) if plain else Kind.TEXT)
        self._add(_Built(ScalarNode(place, event.value, kind, start, end)), event.anchor)

    def _kind_of_tag(self, place: Place, tag: str | None) -> Kind | None:
        if tag is None:
            return None
        if tag not in _TAGS:
            self._report.add(
                place,
                Code.CUSTOM_TAG,
                f"The tag {shorten(tag)} is not part of the workflow language.",
                "remove the tag",
            )
        return _TAGS.get(tag)

    def _alias(self, event: yaml.AliasEvent) -> None:
        name = str(event.anchor)
        place = self._place(event, len(name) + 1)
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._refuse(
                place,
                Code.TOO_MANY_ALIASES,
                f"The file has more than {MAX_ALIASES} aliases.",
                "write some of them out",
            )
        if name not in self._anchors:
            self._refuse(
                place,
                Code.SYNTAX,
                f"The alias *{name} stands before or within its anchor, or has none.",
                f"put &{name} at an earlier value",
            )
        built = self._anchors[name]
        self._check_depth(place, built.height)
        self._add(built, None)

    def _check_depth(self, place: Place, height: int) -> None:
        if len(self._open) + height > MAX_DEPTH:
            self._refuse(place, *TOO_DEEP)

    def _start(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent) -> None:
        place = self._place(event)
        self._check_depth(place, 1)
        self._kind_of_tag(place, event.tag)
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._open.append(_Open(place, event.anchor, mapping))

    def _end(self) -> None:
        done = self._open.pop()
        size = 1 + sum(part.size for part in done.parts)
        height = 1 + max((part.height for part in done.parts), default=0)
        node = (
            MapNode(done.place, tuple(self._entries(done.parts)))
            if done.mapping
            else ListNode(done.place, tuple(part.node for part in done.parts))
        )
        self._add(_Built(node, size, height), done.anchor)

    def _add(self, built: _Built, anchor: str | None) -> None:
        if built.size > MAX_NODES:
            self._refuse(
                built.node.place,
                Code.TOO_LARGE,
                f"With its aliases written out this is more than {MAX_NODES} values.",
                "use fewer aliases of aliases",
            )
        if anchor is not None:
            self._anchors[anchor] = built
        if self._open:
            self._open[-1].parts.append(built)
        else:
            self._root = built

    def _entries(self, parts: list[_Built]) -> Iterator[tuple[ScalarNode, Node]]:
        seen: dict[str, Place] = {}
        merged: list[tuple[ScalarNode, Node]] = []
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if not isinstance(key.node, ScalarNode):
                self._report.add(
                    key.node.place,
                    Code.SYNTAX,
                    "A list or mapping cannot be a key.",
                    "for a variable write `${{ name }}`",
                )
            elif key.node.text == "<<":
                merged.extend(self._merged(value.node))
            elif key.node.text in seen:
                self._twice(key.node, seen[key.node.text])
            else:
                seen[key.node.text] = key.node.place
                yield key.node, value.node
        for key, value in merged:
            if key.text not in seen:
                seen[key.text] = key.place
                yield key, value

    def _merged(self, node: Node) -> tuple[tuple[ScalarNode, Node], ...]:
        """Entries behind `<<: *name` or `<<: [*a, *b]`, earlier ones first."""
        match node:
            case MapNode(entries=entries):
                return entries
            case ListNode(items=items):
                return tuple(entry for item in items for entry in self._merged(item))
            case ScalarNode():
                self._report.add(
                    node.place,
                    Code.WRONG_TYPE,
                    "Only a mapping can be merged with <<.",
                    "write `<<: *name` where &name is at a mapping",
                )
                return ()

    def _twice(self, key: ScalarNode, first: Place) -> None:
        self._report.add(
            key.place,
            Code.DUPLICATE_KEY,
            f'The key "{shorten(key.text)}" is there already, in line {first.line}.',
            "keep one of them",
            key=key.text,
        )
