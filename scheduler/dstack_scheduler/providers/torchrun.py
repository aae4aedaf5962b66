"""`provider: torchrun`: a PyTorch training on one node or several."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.port import Direct, Provider, one_job, preparation
from dstack_scheduler.workflow.keys import ARGS, NODES, PYTHON, REQUIREMENTS, SCRIPT, SETUP
from dstack_scheduler.workflow.model import Option, Workflow

_PROCESSES = '--nproc_per_node="$((DSTACK_GPUS_NUM ? DSTACK_GPUS_NUM : 1))"'
"""One process for each card of the node, or a single one."""

_ALONE = "--standalone"
"""A rendezvous at a free port, so that two trainings of one machine do not meet."""

_TOGETHER = (
    '--nnodes="$DSTACK_NODES_NUM" --node_rank="$NODE_RANK"'
    ' --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT"'
)


def _jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
    words = (
        "torchrun",
        _TOGETHER if workflow.nodes > 1 else _ALONE,
        _PROCESSES,
        shlex.quote(workflow.script),
        workflow.arguments,
        shlex.join(workflow.run_args),
    )
    command = " ".join(word for word in words if word)
    return one_job(workflow, variables, (*preparation(workflow), command))


TORCHRUN = Provider(
    name="torchrun",
    about="Trains with PyTorch on one node or several",
    keys={
        "file": SCRIPT,
        "script": SCRIPT,
        "training_script": SCRIPT,
        "args": ARGS,
        "nodes": NODES,
        "requirements": REQUIREMENTS,
        "before_run": SETUP,
        "setup": SETUP,
        "version": PYTHON,
        "python": PYTHON,
    },
    required=("file",),
    direct=Direct(
        first=("file",),
        options=(Option(("--nnodes", "--nodes"), "nodes", "Number of nodes", "N"),),
        usage="dstack run torchrun FILE [ARGUMENTS] [--nnodes N]",
    ),
    appends_args=True,
    jobs=_jobs,
)
