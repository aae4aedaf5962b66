"""The owner's policy as she writes it: YAML in, a policy out, or every mistake with its place."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import ExecutorKind
from dstack_mesh.trust.membership import Role
from dstack_scheduler.hours import Window, parse_window
from dstack_scheduler.objections import FULL_ID, ROLE
from dstack_scheduler.policy import Lent, Network, Policy, Reclaim
from dstack_scheduler.spans import parse_span
from dstack_scheduler.workflow.document import SourceFile, decode, read_tree
from dstack_scheduler.workflow.problem import Code, Problem, Report, did_you_mean, in_order
from dstack_scheduler.workflow.sizes import parse_size
from dstack_scheduler.workflow.tree import ListNode, MapNode, Node, ScalarNode, describe, is_null

T = TypeVar("T")

EVERYBODY = "everybody"
ALL = "all"
NOTHING = "none"


class PolicyBroken(Invalid):
    """The file is no policy. All that is wrong with it is in `problems`."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        first, more = self.problems[0], len(self.problems) - 1
        others = f" And {more} more." if more else ""
        super().__init__(
            "The owner's policy is broken.",
            f"{path}:{first.line}:{first.column}: {first.message}{others}",
            f"{first.hint}\ndstack-runner policy --check {path}".lstrip("\n"),
            "policy",
        )


class _Wrong(Exception):
    """A value cannot be; said where it stands."""

    def __init__(self, node: Node, code: Code, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.node = node
        self.code = code
        self.hint = hint


@frozen
class _Key:
    """A key of the file: the field of `Policy` that it sets, and how it is read."""

    field: str
    read: Callable[[Node], object]


def parse_policy(path: Path, data: bytes, start: Policy) -> Policy:
    """The policy that a file says; what it leaves out stays as in `start`.

    Raises:
        PolicyBroken: With all that is wrong.
    """
    source = SourceFile(str(path), data)
    report = Report({source.path: data.decode(errors="replace")})
    text = decode(source, report)
    tree = None if text is None else read_tree(source.path, text, report)
    fields: dict[str, Any] = {}
    match tree:
        case None:
            pass
        case MapNode(entries=entries):
            for key, node in entries:
                _read(key, node, report, fields)
        case _ if is_null(tree):
            pass
        case _:
            hint = "longest: 4h"
            message = f"The file must hold keys with values, not {describe(tree)}."
            report.add(tree.place, Code.WRONG_TYPE, message, hint)
    if report.problems:
        raise PolicyBroken(path, report.problems)
    return replace(start, **fields)


def _read(key: ScalarNode, node: Node, report: Report, fields: dict[str, Any]) -> None:
    known = KEYS.get(key.text)
    if known is None:
        hint = did_you_mean(key.text, KEYS)
        report.add(key.place, Code.UNKNOWN_KEY, f'There is no key "{key.text}".', hint)
        return
    if is_null(node):
        hint = "give it one or remove the line"
        report.add(key.place, Code.EMPTY, f'"{key.text}" has no value.', hint)
        return
    try:
        fields[known.field] = known.read(node)
    except _Wrong as wrong:
        message = f'"{key.text}" {wrong}'
        report.add(wrong.node.place, wrong.code, message, wrong.hint, key=key.text)


def _text(node: Node) -> str:
    if not isinstance(node, ScalarNode) or not node.text.strip():
        raise _Wrong(node, Code.WRONG_TYPE, f"must be one word or value, not {describe(node)}.")
    return node.text.strip()


def _nodes(node: Node) -> tuple[Node, ...]:
    """The items of a list; one value alone is a list of one."""
    match node:
        case ListNode(items=items):
            return items
        case ScalarNode():
            return (node,)
        case MapNode():
            raise _Wrong(node, Code.WRONG_TYPE, f"must be a list, not {describe(node)}.")


def _word(node: Node) -> str:
    return node.text.strip().lower() if isinstance(node, ScalarNode) else ""


def _one_of(node: Node, words: dict[str, T]) -> T:
    word = _text(node).lower()
    if word not in words:
        hint = did_you_mean(word, words)
        raise _Wrong(node, Code.BAD_NAME, f'must be {" or ".join(words)}, not "{word}".', hint)
    return words[word]


def _who(node: Node) -> tuple[str, ...] | None:
    if _word(node) == EVERYBODY:
        return None
    return tuple(_peer(each) for each in _nodes(node))


def _peer(node: Node) -> str:
    word = _text(node)
    roles = {role.value for role in Role}
    if word in roles:
        message = f'names the role "{word}" as if it were a peer.'
        raise _Wrong(node, Code.BAD_NAME, message, f"write {ROLE}{word}")
    if word.startswith(ROLE) and word.removeprefix(ROLE) not in roles:
        message = f'names no role with "{word}".'
        hint = did_you_mean(word.removeprefix(ROLE), roles)
        raise _Wrong(node, Code.BAD_NAME, message, hint)
    return word.lower() if FULL_ID.match(word.lower()) else word


def _images(node: Node) -> tuple[str, ...] | None:
    if _word(node) in (ALL, "*"):
        return None
    return () if _word(node) == NOTHING else tuple(_text(each) for each in _nodes(node))


def _executors(node: Node) -> frozenset[ExecutorKind]:
    kinds = {kind.value: kind for kind in ExecutorKind}
    return frozenset(_one_of(each, kinds) for each in _nodes(node))


def _lent(node: Node) -> Lent:
    match node:
        case MapNode(entries=entries):
            return _lent_map(entries)
        case ScalarNode() if _word(node).isdigit():
            number = _word(node)
            hint = f"gpus: [{number}] for the card of that number, gpus: {{most: {number}}} for so"
            message = f"can be a number of cards or the number of a card: {number}."
            raise _Wrong(node, Code.WRONG_TYPE, message, f"{hint} many at once")
        case _:
            return Lent(_which(node))


def _lent_map(entries: tuple[tuple[ScalarNode, Node], ...]) -> Lent:
    lent = Lent()
    for key, value in entries:
        match key.text:
            case "cards":
                lent = replace(lent, which=_which(value))
            case "most":
                lent = replace(lent, most=_whole(value))
            case word:
                hint = did_you_mean(word, ("cards", "most"))
                raise _Wrong(key, Code.UNKNOWN_KEY, f'has no key "{word}".', hint)
    return lent


def _which(node: Node) -> tuple[str, ...] | None:
    if _word(node) == ALL:
        return None
    return () if _word(node) == NOTHING else tuple(_text(each) for each in _nodes(node))


def _hours(node: Node) -> tuple[Window, ...] | None:
    if _word(node) == "always":
        return None
    return () if _word(node) == "never" else tuple(_window(each) for each in _nodes(node))


def _window(node: Node) -> Window:
    text = _text(node)
    try:
        return parse_window(text)
    except ValueError as error:
        message = f'cannot be "{text}": {error}.'
        raise _Wrong(node, Code.BAD_HOURS, message, 'as "weekdays 19:00-08:00"') from error


def _span(node: Node) -> float:
    text = _text(node)
    try:
        return parse_span(text)
    except ValueError as error:
        message = f'cannot be "{text}". {error}.'
        raise _Wrong(node, Code.BAD_SPAN, message, "as 4h or 30m") from error


def _whole(node: Node) -> int:
    text = _text(node)
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        message = f'must be a whole number from 0 on, not "{text}".'
        raise _Wrong(node, Code.BAD_NUMBER, message)
    return int(text)


def _size(node: Node) -> int:
    text = _text(node)
    size = parse_size(text)
    if size is None:
        message = f'must be a size with a unit, not "{text}".'
        raise _Wrong(node, Code.BAD_SIZE, message, "write a number and MB, GB, MiB or GiB, as 16GB")
    return size


def _network(node: Node) -> Network:
    return _one_of(node, {kind.value: kind for kind in Network})


def _reclaim(node: Node) -> Reclaim:
    return _one_of(node, {kind.value: kind for kind in Reclaim})


def _mounts(node: Node) -> bool:
    return _one_of(node, {"allowed": True, "none": False})


KEYS: dict[str, _Key] = {
    "who": _Key("who", _who),
    "images": _Key("images", _images),
    "executors": _Key("executors", _executors),
    "gpus": _Key("cards", _lent),
    "hours": _Key("hours", _hours),
    "longest": _Key("longest_seconds", _span),
    "cpus": _Key("cpus", _whole),
    "memory": _Key("memory_bytes", _size),
    "disk": _Key("disk_bytes", _size),
    "network": _Key("network", _network),
    "mounts": _Key("mounts", _mounts),
    "reclaim": _Key("reclaim", _reclaim),
    "grace": _Key("grace_seconds", _span),
}
"""Every key of the file."""
