"""Whether a job is entered over SSH."""

from dataclasses import replace

from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import Scalar, shaped
from dstack_scheduler.workflow.tree import Node


@shaped(Scalar.FLAG)
def read_ssh(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`ssh: true`, `--ssh`."""
    return replace(workflow, ssh=bool(scope.flag(node)))


@shaped(Scalar.FLAG)
def read_no_ssh(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`--no-ssh`."""
    return replace(workflow, ssh=scope.flag(node) is False)
