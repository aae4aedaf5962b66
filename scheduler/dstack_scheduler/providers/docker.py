"""`provider: docker`, and workflows with an image and no provider: commands in a container."""

import shlex
from collections.abc import Mapping
from dataclasses import replace

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import (
    COMMAND,
    Direct,
    Provider,
    one_job,
    with_run_args,
)
from dstack_scheduler.providers.sshd import app_of, foreground
from dstack_scheduler.workflow.keys import (
    COMMANDS,
    ENTRYPOINT,
    HOME_DIR,
    IMAGE,
    PORTS,
    REGISTRY_AUTH,
    SSH,
)
from dstack_scheduler.workflow.model import Workflow


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    workflow = _at_home(workflow)
    if workflow.ssh and not workflow.commands and not workflow.run_args:
        entered = replace(workflow, ssh=False)
        return one_job(entered, variables, (foreground(),), apps=(app_of(),))
    if workflow.commands:
        return one_job(workflow, variables, with_run_args(workflow))
    # `dstack run docker IMAGE COMMAND ARGS`; without any of them the image's own command runs.
    words = shlex.join(workflow.run_args)
    return one_job(workflow, variables, (words,) if words else ())


def _at_home(workflow: Workflow) -> Workflow:
    if not workflow.home_dir:
        return workflow
    kept = (
        workflow.home_dir.rstrip("/") + path[1:] if path.startswith("~/") else path
        for path in workflow.artifacts
    )
    return replace(workflow, artifacts=tuple(kept))


_KEYS = {
    "image": IMAGE,
    "commands": COMMANDS,
    "command": COMMANDS,
    "entrypoint": ENTRYPOINT,
    "home_dir": HOME_DIR,
    "ports": PORTS,
    "registry_auth": REGISTRY_AUTH,
    "ssh": SSH,
}

DOCKER = Provider(
    name="docker",
    about="Runs a container",
    keys=_KEYS,
    required=("image",),
    direct=Direct(
        first=("image",),
        options=(COMMAND,),
        usage='dstack run docker IMAGE [-c "COMMAND"] [COMMAND ARGUMENTS]',
        rest=True,
    ),
    appends_args=False,
    jobs=_jobs,
)

IMAGE_AND_COMMANDS = replace(DOCKER, required=("image", "commands"))
"""A workflow without a provider."""
