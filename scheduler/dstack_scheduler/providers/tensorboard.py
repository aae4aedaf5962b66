"""`provider: tensorboard`: what earlier runs logged.

What each of them kept is an input, in a folder by the run's name, so that no two get in each
other's way.
"""

import shlex
from collections.abc import Mapping
from dataclasses import replace

from dstack_scheduler.app import App
from dstack_scheduler.plan import PlannedJob, Reuse
from dstack_scheduler.providers.options import RUNS, option, tool_version
from dstack_scheduler.providers.port import Direct, Option, Provider, one_job, preparation
from dstack_scheduler.providers.tools import TOOL_KEYS, own_port, package
from dstack_scheduler.workflow.model import Workflow

FOLDER = "tensorboard-runs"
"""In the job's working directory: a folder for each run."""


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    runs = workflow.options["runs"].split()
    below = workflow.options.get("logdir", "").removeprefix("./").strip("/")
    places = ",".join(f"{run}:{FOLDER}/{run}/{below}" for run in runs)
    where = f"--logdir_spec {shlex.quote(places)}" if below else f"--logdir {FOLDER}"
    serve = (
        f'python -m tensorboard.main {where} --host "$DSTACK_APP_HOST" --port {own_port(workflow)}'
    )
    tool = package("tensorboard", workflow.options.get("version", ""))
    commands = (*preparation(workflow), serve)
    jobs = one_job(workflow, variables, commands, (tool,), (App("tensorboard", web=True),))
    reuses = tuple(Reuse(run=run, below=f"{FOLDER}/{run}", text=run) for run in runs)
    return tuple(replace(job, reuses=reuses) for job in jobs)


TENSORBOARD = Provider(
    name="tensorboard",
    about="Shows what earlier runs logged",
    keys={
        "runs": RUNS,
        "logdir": option("logdir", "logdir: logs"),
        "version": tool_version(),
        **TOOL_KEYS,
    },
    required=("runs",),
    direct=Direct(
        many="runs",
        options=(Option(("--logdir",), "logdir", "Folder of each run that is shown", "DIR"),),
        usage="dstack run tensorboard RUN... [--logdir DIR]",
    ),
    appends_args=False,
    jobs=_jobs,
)
