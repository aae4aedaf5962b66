"""`provider: bash`: commands in a shell on the machine."""

from collections.abc import Mapping

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import (
    COMMAND,
    Direct,
    Provider,
    one_job,
    preparation,
    with_run_args,
)
from dstack_scheduler.workflow.keys import COMMANDS, PORTS, PYTHON, REQUIREMENTS, SETUP, SSH
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    return one_job(workflow, variables, (*preparation(workflow), *with_run_args(workflow)))


BASH = Provider(
    name="bash",
    about="Runs commands in a shell",
    keys={
        "commands": COMMANDS,
        "requirements": REQUIREMENTS,
        "before_run": SETUP,
        "setup": SETUP,
        "python": PYTHON,
        "ports": PORTS,
        "ssh": SSH,
    },
    required=("commands",),
    direct=Direct(options=(COMMAND,), usage='dstack run bash -c "COMMAND" [ARGUMENTS]', rest=True),
    appends_args=False,
    jobs=_jobs,
)
