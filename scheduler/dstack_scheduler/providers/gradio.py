"""`provider: gradio`: a script that launches a Gradio app."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.app import App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import tool_version
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import TOOL_KEYS, own_port, package, script_arguments
from dstack_scheduler.workflow.keys import ARGS, SCRIPT
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    told = (
        f'export GRADIO_SERVER_NAME="$DSTACK_APP_HOST" GRADIO_SERVER_PORT={own_port(workflow)}'
        ' GRADIO_ANALYTICS_ENABLED="${GRADIO_ANALYTICS_ENABLED:-False}"'
    )
    words = ("python", shlex.quote(workflow.script), script_arguments(workflow))
    tool = package("gradio", workflow.options.get("version", ""))
    commands = (*preparation(workflow), told, " ".join(filter(None, words)))
    return one_job(workflow, variables, commands, (tool,), (App("gradio", web=True),))


GRADIO = Provider(
    name="gradio",
    about="Serves a Gradio app",
    keys={"file": SCRIPT, "args": ARGS, "version": tool_version(), **TOOL_KEYS},
    required=("file",),
    direct=Direct(first=("file",), usage="dstack run gradio FILE [ARGUMENTS]"),
    appends_args=True,
    jobs=_jobs,
)
