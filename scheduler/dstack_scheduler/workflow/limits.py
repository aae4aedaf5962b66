"""How long a job may take, and how often it is tried: `max_duration`, `idle_timeout`, `retry`."""

from dataclasses import replace

from dstack_scheduler.retry import MOST_ATTEMPTS, RETRY_EVENTS, Retry
from dstack_scheduler.spans import parse_span
from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import Code, did_you_mean
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXT_OR_TEXTS, TEXTS, Either, Scalar, Table, shaped
from dstack_scheduler.workflow.tree import ListNode, MapNode, Node, ScalarNode, shorten

_OFF = frozenset({"off", "false"})
_ON = frozenset({"on", "true"})


@shaped(Scalar.TEXT)
def read_max_duration(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`max_duration: 2h`; `off` for no limit."""
    return replace(workflow, max_duration_seconds=_span(node, scope))


@shaped(Scalar.TEXT)
def read_idle_timeout(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`idle_timeout: 30m`; `off` lets an application stay that nobody uses."""
    return replace(workflow, idle_timeout_seconds=_span(node, scope))


@shaped(Either((Scalar.TEXT, TEXTS, Table(lambda: _RETRY))))
def read_retry(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`retry: 3`, `retry: on_lost`, or `{attempts: 3, on_events: [error], duration: 1h}`."""
    if isinstance(node, MapNode):
        return replace(workflow, retry=scope.walk(Retry(), node, _RETRY, ""))
    if isinstance(node, ListNode):
        return replace(workflow, retry=_read_events(Retry(), node, scope))
    text = (scope.text(node) or "").strip().lower()
    if not text or text in _OFF:
        return replace(workflow, retry=None)
    if text in _ON:
        return replace(workflow, retry=Retry())
    if text[0] in "+-0123456789":
        retry = _read_attempts(Retry(), node, scope)
        return replace(workflow, retry=retry if retry.attempts else None)
    return replace(workflow, retry=_read_events(Retry(), node, scope))


def _span(node: Node, scope: Scope) -> float | None:
    """Seconds; 0 for `off`, None if it is no span or a variable left it empty."""
    text = scope.text(node)
    if text is None or not text.strip():
        return None
    if text.strip().lower() in _OFF:
        return 0.0
    try:
        return parse_span(text)
    except ValueError as error:
        scope.complain(
            node,
            Code.BAD_SPAN,
            f'"{scope.key}" must be a span of time, not "{shorten(text)}".',
            f"{str(error)[0].lower()}{str(error)[1:]}; or write off",
        )
        return None


@shaped(Scalar.NUMBER)
def _read_attempts(retry: Retry, node: Node, scope: Scope) -> Retry:
    count = scope.whole(node)
    if count is None:
        return retry
    if count > MOST_ATTEMPTS:
        scope.complain(
            node,
            Code.BAD_NUMBER,
            f"{count} attempts are more than {MOST_ATTEMPTS}.",
            f"write a number from 0 to {MOST_ATTEMPTS}",
        )
        return retry
    return replace(retry, attempts=count)


@shaped(TEXT_OR_TEXTS)
def _read_events(retry: Retry, node: Node, scope: Scope) -> Retry:
    items = (node,) if isinstance(node, ScalarNode) else scope.items(node, "write [error]")
    events = [event for item in items if (event := _event(item, scope))]
    return replace(retry, events=tuple(dict.fromkeys(events))) if events else retry


def _event(node: Node, scope: Scope) -> str | None:
    text = scope.line(node)
    if text is None:
        return None
    word = text.strip().lower().replace("_", "-").removeprefix("on-")
    if word in RETRY_EVENTS:
        return word
    scope.complain(
        node,
        Code.BAD_NAME,
        f'"{shorten(text)}" is nothing after which a job is tried again.',
        did_you_mean(word, RETRY_EVENTS),
    )
    return None


@shaped(Scalar.TEXT)
def _read_duration(retry: Retry, node: Node, scope: Scope) -> Retry:
    return replace(retry, duration_seconds=_span(node, scope) or None)


_RETRY = {
    "attempts": _read_attempts,
    "on": _read_events,
    "on_events": _read_events,
    "duration": _read_duration,
}
"""Keys below `retry`."""
