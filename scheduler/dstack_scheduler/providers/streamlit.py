"""`provider: streamlit`: an app of Streamlit."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.app import App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import option, tool_version
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import TOOL_KEYS, own_port, package, script_arguments
from dstack_scheduler.workflow.keys import ARGS
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    arguments = script_arguments(workflow)
    serve = (
        "python -m streamlit run --server.headless true --browser.gatherUsageStats false"
        f' --server.address "$DSTACK_APP_HOST" --server.port {own_port(workflow)}'
        f" {shlex.quote(workflow.options['target'])}" + (f" -- {arguments}" if arguments else "")
    )
    tool = package("streamlit", workflow.options.get("version", ""))
    commands = (*preparation(workflow), serve)
    return one_job(workflow, variables, commands, (tool,), (App("streamlit", web=True),))


STREAMLIT = Provider(
    name="streamlit",
    about="Serves a Streamlit app",
    keys={
        "target": option("target", "target: app.py"),
        "args": ARGS,
        "version": tool_version(),
        **TOOL_KEYS,
    },
    required=("target",),
    direct=Direct(first=("target",), usage="dstack run streamlit TARGET [ARGUMENTS]"),
    appends_args=True,
    jobs=_jobs,
)
