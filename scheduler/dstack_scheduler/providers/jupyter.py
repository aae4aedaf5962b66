"""`provider: lab` and `provider: notebook`: Jupyter, to be opened in a browser.

The token reaches it in the environment: an argument would be everybody's to read.
"""

from collections.abc import Mapping
from functools import partial

from dstack_scheduler.app import TOKEN, App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.options import tool_version
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import WORKPLACE_KEYS, own_port, package
from dstack_scheduler.workflow.model import Workflow

_ENVIRONMENT = (
    'export JUPYTER_TOKEN="$TOKEN" JUPYTER_RUNTIME_DIR="${TMPDIR:-/tmp}/jupyter"',
    'mkdir -p "$JUPYTER_RUNTIME_DIR"',
)


def _jobs(
    name: str, app: App, workflow: Workflow, variables: Mapping[str, str]
) -> tuple[PlannedJob, ...]:
    serve = (
        f"python -m {name} --allow-root --no-browser"
        f' --ip="$DSTACK_APP_HOST" --port={own_port(workflow)} --ServerApp.port_retries=0'
    )
    tool = package(name, workflow.options.get("version", ""))
    commands = (*preparation(workflow), *_ENVIRONMENT, serve)
    return one_job(workflow, variables, commands, (tool,), (app,))


def _jupyter(name: str, about: str, tool: str, path: str) -> Provider:
    app = App(name, path=path, query=f"token={TOKEN}", token="TOKEN", web=True)
    return Provider(
        name=name,
        about=about,
        keys={"version": tool_version(), **WORKPLACE_KEYS},
        required=(),
        direct=Direct(usage=f"dstack run {name}"),
        appends_args=False,
        jobs=partial(_jobs, tool, app),
    )


LAB = _jupyter("lab", "Opens JupyterLab in the browser", "jupyterlab", "/lab")
NOTEBOOK = _jupyter("notebook", "Opens Jupyter Notebook in the browser", "notebook", "/tree")
