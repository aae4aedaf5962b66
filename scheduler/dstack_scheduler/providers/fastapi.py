"""`provider: fastapi`: an ASGI app, served by uvicorn."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.app import App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import option, tool_version
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import TOOL_KEYS, own_port, package
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    options = workflow.options
    serve = (
        f"python -m uvicorn {shlex.quote(options['app'])}"
        f' --host "$DSTACK_APP_HOST" --port {own_port(workflow)}'
    )
    tools = (
        package("fastapi", options.get("version", "")),
        package("uvicorn[standard]", options.get("uvicorn", "")),
    )
    commands = (*preparation(workflow), serve)
    app = App("fastapi", path="/docs", web=True)
    return one_job(workflow, variables, commands, tools, (app,))


FASTAPI = Provider(
    name="fastapi",
    about="Serves a FastAPI app",
    keys={
        "app": option("app", "app: main:app"),
        "version": tool_version(),
        "uvicorn": tool_version("uvicorn"),
        **TOOL_KEYS,
    },
    required=("app",),
    direct=Direct(first=("app",), usage="dstack run fastapi MODULE:APP"),
    appends_args=False,
    jobs=_jobs,
)
