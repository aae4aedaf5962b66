"""Values of a workflow as a program of somebody else gets them."""

from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import ListNode, MapNode, Node, ScalarNode, is_null


def plain(node: Node, scope: Scope) -> object:
    """A value as the program gets it, variables put in where they are known."""
    match node:
        case MapNode(entries=entries):
            return {key.text: plain(value, scope) for key, value in entries}
        case ListNode(items=items):
            return [plain(item, scope) for item in items]
        case ScalarNode():
            return None if is_null(node) else scope.interpolator.put_into(node.text).text
