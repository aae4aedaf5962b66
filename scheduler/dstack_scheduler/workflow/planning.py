"""From a project and a command line to the jobs of one run, or to everything that is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dstack_mesh.ids import RunId, RunName
from dstack_scheduler.names import job_id
from dstack_scheduler.plan import Plan, PlannedJob
from dstack_scheduler.providers.registry import LATER, PROVIDERS
from dstack_scheduler.workflow.chain import Cycle, Links, ancestors, ancestors_first, cycles
from dstack_scheduler.workflow.checking import Checked, check, takes
from dstack_scheduler.workflow.command_line import (
    FLAGS,
    Overrides,
    Typed,
    override,
    take_apart,
    written,
)
from dstack_scheduler.workflow.interpolation import RUN_ARGS, Interpolator, Values
from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import (
    Code,
    Place,
    Problem,
    Report,
    WorkflowProblems,
    did_you_mean,
    in_order,
    shell_words,
)
from dstack_scheduler.workflow.project import Project, Written
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import MapNode

_NOTHING_TYPED = Typed({}, Overrides(), {}, ())
