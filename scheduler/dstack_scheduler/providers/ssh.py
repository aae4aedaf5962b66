"""`provider: ssh`: nothing runs but what a person starts, who gets in over SSH."""

from collections.abc import Mapping

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import with_option
from dstack_scheduler.providers.port import Direct, Option, Provider, one_job, preparation
from dstack_scheduler.providers.sshd import app_of, foreground
from dstack_scheduler.providers.tools import TOOL_KEYS
from dstack_scheduler.workflow.model import Key, Workflow
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import Scalar, shaped
from dstack_scheduler.workflow.tree import Node

EDITOR = "code"
"""Key that asks for a link which opens the job in VS Code."""


@shaped(Scalar.FLAG)
def _read_editor(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    return with_option(workflow, EDITOR, EDITOR if scope.flag(node) else "")


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    commands = (*preparation(workflow), foreground())
    app = app_of(editor=bool(workflow.options.get(EDITOR)))
    return one_job(workflow, variables, commands, apps=(app,))


SSH_SERVER = Provider(
    name="ssh",
    about="Lets you in over SSH",
    keys={EDITOR: Key(EDITOR, _read_editor, "code: true"), **TOOL_KEYS},
    required=(),
    direct=Direct(
        options=(Option(("--code",), EDITOR, "Tell a link for VS Code as well"),),
        usage="dstack run ssh [--code]",
    ),
    appends_args=False,
    jobs=_jobs,
)
