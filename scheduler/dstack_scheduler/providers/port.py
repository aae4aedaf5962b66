"""What a provider is: a table of keys, and a function from a checked workflow to jobs."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from dstack_mesh.frozen import frozen
from dstack_scheduler.app import App, plain_apps
from dstack_scheduler.job import Node
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.installs import installs_of
from dstack_scheduler.providers.installs import preparation as preparation
from dstack_scheduler.providers.sshd import app_of, beside
from dstack_scheduler.workflow.environment import exported
from dstack_scheduler.workflow.model import Key, Option, Workflow


class Direct(NamedTuple):
    """How `dstack run PROVIDER …` spells the provider's keys.

    Attributes:
        first: Keys of the words that come first, in order.
        many: Key of all words that come after them; empty if they are the script's.
        options: The provider's own flags.
        usage: For messages, as "dstack run python FILE [ARGUMENTS]".
        rest: Words left over are used in a direct run, also where no script gets them.
    """

    first: tuple[str, ...] = ()
    many: str = ""
    options: tuple[Option, ...] = ()
    usage: str = ""
    rest: bool = False

    @property
    def spelled(self) -> Mapping[str, Option]:
        """Its own flags by spelling."""
        return {spelling: one for one in self.options for spelling in one.spellings}


COMMAND = Option(("-c", "--command"), "commands", "Command for a shell", "COMMAND")


WRITTEN = "written"
"""Option of a workflow whose provider takes any key: all of its keys, in JSON."""


@frozen
class Provider:
    """One way to make jobs of a workflow.

    Attributes:
        name: As in `provider: NAME`.
        about: One line for people.
        keys: Keys besides those that every provider takes, by spelling.
        required: Keys that must be there in one spelling or another.
        direct: How to run it without a workflow.
        appends_args: Arguments of the command line reach the script without `${{ run.args }}`.
        jobs: The jobs; who plans fills in what stands in for their place in the run.
        package: That brings it; empty for our own.
        any_key: Takes keys that nobody else knows; they are in `options` below `WRITTEN`.
    """

    name: str
    about: str
    keys: Mapping[str, Key]
    required: tuple[str, ...]
    direct: Direct
    appends_args: bool
    jobs: Callable[[Workflow, Mapping[str, str]], tuple[PlannedJob, ...]]
    package: str = ""
    any_key: bool = False


def one_job(
    workflow: Workflow,
    variables: Mapping[str, str],
    commands: tuple[str, ...],
    packages: tuple[str, ...] = (),
    apps: tuple[App, ...] = (),
) -> tuple[PlannedJob, ...]:
    """A single job with everything that a workflow says but its commands.

    Args:
        variables: Go into the environment after the workflow's own `env`, so they win.
        packages: What the provider needs of its own, as `pip install` takes it.
        apps: Each has a port of its own after those of the workflow.
    """
    name = "port" if apps else workflow.provider
    if workflow.ssh:
        apps, commands = (*apps, app_of()), (beside(), *commands)
    plain = plain_apps(name, workflow.ports, workflow.local_ports)
    own = (replace(app, port=index) for index, app in enumerate(apps, len(workflow.ports)))
    job = PlannedJob(
        index=0,
        workflow=workflow.name,
        provider=workflow.provider,
        commands=commands,
        needs=workflow.needs,
        image=workflow.image,
        entrypoint=workflow.entrypoint,
        env={**workflow.env, **exported(variables)},
        working_dir=workflow.working_dir,
        artifacts=workflow.artifacts,
        python=workflow.python,
        ports=(*workflow.ports, *(0 for _ in apps)),
        place=workflow.place,
        variables=dict(variables),
        secret_names=workflow.secrets,
        registry_auth=workflow.registry_auth,
        installs=installs_of(workflow, packages),
        max_duration_seconds=workflow.max_duration_seconds or None,
        idle_timeout_seconds=workflow.idle_timeout_seconds or None,
        retry=workflow.retry,
        cache=workflow.cache,
        prebuild=workflow.prebuild,
        apps=(*plain, *own),
    )
    return (job,)


def nodes_of(job: PlannedJob, count: int) -> tuple[PlannedJob, ...]:
    """The nodes of a gang that runs a job, or the job itself. Only node 0 keeps artifacts."""
    if count == 1:
        return (job,)
    master = replace(job, node=Node(0, count))
    others = (replace(job, node=Node(rank, count), artifacts=()) for rank in range(1, count))
    return (master, *others)


def with_run_args(workflow: Workflow) -> tuple[str, ...]:
    """Commands of a direct run, which find its further arguments as `$1`, `$2` … and `$@`."""
    if not workflow.run_args:
        return workflow.commands
    return (f"set -- {shlex.join(workflow.run_args)}", *workflow.commands)
