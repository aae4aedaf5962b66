"""A run before it runs: jobs in order, each with what must be done before it."""

from collections.abc import Mapping
from dataclasses import field

from dstack_mesh.frozen import frozen
from dstack_scheduler.app import App
from dstack_scheduler.job import Node
from dstack_scheduler.needs import Needs
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.retry import Retry
from dstack_scheduler.secret import RegistryAuth, needed


@frozen
class Reuse:
    """An input that exists already: nothing is started for it (`deps`, `x:tag`).

    Attributes:
        workflow: Take the newest done run of this workflow, or only its jobs within the tag.
        tag: Take the run behind this tag; "latest" falls back to the newest done run.
        repo: "owner/repo" of another repository; empty for this one.
        run: Take the run of this name.
        below: Folder that its artifacts are laid below; empty for their own places.
        text: As the person wrote it, for messages.
    """

    workflow: str = ""
    tag: str = ""
    repo: str = ""
    text: str = ""
    run: str = ""
    below: str = ""


@frozen
class PlannedJob:
    """A job of a plan, everything decided but where and when.

    Attributes:
        index: Position in the plan; jobs come after everything they need.
        after: Indexes of jobs of this plan whose artifacts this one takes, ancestors included, in
            declared order.
        reuses: Inputs that exist already.
        python: Version that was asked for; empty for any.
        ports: A port of the job each; 0 is any free one, the first of them `$PORT_0`.
        node: Its place in a gang; None for a job of its own.
        makes: Workflow whose jobs it makes; empty for a job that makes none.
        place: "local" for this machine only, "remote" for any other one, empty for either.
        variables: All that the job works with, values as written.
        secret_names: Secrets that the job gets as variables and files.
        registry_auth: What its image is pulled with; None for nothing.
        installs: Arguments of each `pip install` before the commands run, quoted for a shell.
        counted: Patterns of the files of the code that count for reuse; empty for all of them.
        earlier: Workflows before it whose earlier results are taken instead of running them.
        apps: What a person opens of it, each behind one of its ports.
    """

    index: int
    workflow: str
    provider: str
    commands: tuple[str, ...]
    needs: Needs = field(default_factory=Needs)
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    working_dir: str = ""
    artifacts: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    reuses: tuple[Reuse, ...] = ()
    python: str = ""
    node: Node | None = None
    makes: str = ""
    ports: tuple[int, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    secret_names: tuple[str, ...] = ()
    max_duration_seconds: float | None = None
    place: str = ""
    registry_auth: RegistryAuth | None = None
    installs: tuple[str, ...] = ()
    idle_timeout_seconds: float | None = None
    retry: Retry | None = None
    cache: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    apps: tuple[App, ...] = ()
    prebuild: Prebuild = Prebuild.USUAL

    @property
    def secrets_needed(self) -> tuple[str, ...]:
        """Every secret whose value must come with the award."""
        return needed(self.secret_names, self.env, self.registry_auth)


@frozen
class Plan:
    """What one `dstack run` will do. The requested job is the last one.

    `variables` are in effect for the requested job, or were given for another one.
    """

    target: str
    jobs: tuple[PlannedJob, ...]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
