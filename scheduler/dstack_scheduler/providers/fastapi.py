"""`provider: fastapi`: an ASGI app, served by uvicorn."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.app import App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import option, tool_version
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import TOOL_KEYS, installed, own_port
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    options = workflow.options
    serve = (
        f"python -m uvicorn {shlex.quote(options['app'])}"
        f' --host "$DSTACK_APP_HOST" --port {own_port(workflow)}'
    )
    tools = (
        installed("fastapi", options.get("version", "")),
        installed("uvicorn", options.get("uvicorn", ""), "[standard]"),
    )
    commands = (*preparation(workflow), *tools, serve)
    return one_job(workflow, variables, commands, apps=(App("fastapi", path="/docs", web=True),))


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
