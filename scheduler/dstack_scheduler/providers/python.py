"""`provider: python`: a script with its arguments."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.workflow.keys import ARGS, PYTHON, REQUIREMENTS, SCRIPT, SETUP
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    words = (
        "python",
        shlex.quote(workflow.script),
        workflow.arguments,
        shlex.join(workflow.run_args),
    )
    command = " ".join(word for word in words if word)
    return one_job(workflow, variables, (*preparation(workflow), command))


PYTHON_SCRIPT = Provider(
    name="python",
    about="Runs a Python script",
    keys={
        "file": SCRIPT,
        "script": SCRIPT,
        "python_script": SCRIPT,
        "args": ARGS,
        "requirements": REQUIREMENTS,
        "before_run": SETUP,
        "setup": SETUP,
        "version": PYTHON,
        "python": PYTHON,
    },
    required=("file",),
    direct=Direct(first=("file",), usage="dstack run python FILE [ARGUMENTS]"),
    appends_args=True,
    jobs=_jobs,
)
