"""`provider: lab` and `provider: notebook`: Jupyter, to be opened in a browser.

The token reaches it in the environment: an argument would be everybody's to read.
"""

from collections.abc import Callable, Mapping

from dstack_scheduler.app import TOKEN, App
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.providers.tools import installed
from dstack_scheduler.workflow.keys import PORTS, PYTHON, REQUIREMENTS, SETUP, TOOL_VERSION
from dstack_scheduler.workflow.model import Workflow

_ENVIRONMENT = (
    'export JUPYTER_TOKEN="$TOKEN" JUPYTER_RUNTIME_DIR="${TMPDIR:-/tmp}/jupyter"',
    'mkdir -p "$JUPYTER_RUNTIME_DIR"',
)


def _jobs(
    package: str, app: App
) -> Callable[[Workflow, Mapping[str, str]], tuple[PlannedJob, ...]]:
    def jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
        port = f"$PORT_{len(workflow.ports)}"
        serve = (
            f'exec python -m {package} --allow-root --no-browser "--ip=$DSTACK_APP_HOST"'
            f' "--port={port}" --ServerApp.port_retries=0'
        )
        commands = (
            *preparation(workflow),
            installed(package, workflow.version),
            *_ENVIRONMENT,
            serve,
        )
        return one_job(workflow, variables, commands, (app,))

    return jobs


def _jupyter(name: str, about: str, package: str, path: str) -> Provider:
    return Provider(
        name=name,
        about=about,
        keys={
            "version": TOOL_VERSION,
            "requirements": REQUIREMENTS,
            "before_run": SETUP,
            "setup": SETUP,
            "python": PYTHON,
            "ports": PORTS,
        },
        required=(),
        direct=Direct(usage=f"dstack run {name}"),
        appends_args=False,
        jobs=_jobs(package, App(name, path=path, query=f"token={TOKEN}", token="TOKEN", web=True)),
    )


LAB = _jupyter("lab", "Opens JupyterLab in the browser", "jupyterlab", "/lab")
NOTEBOOK = _jupyter("notebook", "Opens Jupyter Notebook in the browser", "notebook", "/tree")
