"""A checked workflow: one model, whatever dialect it was written in."""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import NamedTuple

from dstack_mesh.frozen import frozen
from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import Reuse
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.retry import Retry
from dstack_scheduler.secret import RegistryAuth
from dstack_scheduler.workflow.problem import Place
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import Node


@frozen
class Dependency:
    """An input as it was written.

    Attributes:
        place: Where it stands.
        text: As it was written, for messages.
        workflow: May be empty where there is a tag.
        tag: May be empty.
        repo: "owner/repo"; empty for this one.
        triggers: Written under a key that runs what it names, and not only looks it up.
    """

    place: Place
    text: str
    workflow: str = ""
    tag: str = ""
    repo: str = ""
    triggers: bool = False

    @property
    def chained(self) -> bool:
        """It becomes an earlier job of the same run."""
        return self.triggers and not self.tag and not self.repo

    @property
    def reuse(self) -> Reuse:
        return Reuse(self.workflow, self.tag, self.repo, self.text)


@frozen
class Workflow:
    """What a workflow asks for, variables put in.

    Attributes:
        commands: For one shell, in order.
        script: The script that the provider runs.
        arguments: Its arguments, quoted for the shell.
        requirements: File of pip requirements.
        setup: Commands before the main one.
        python: Version, as "3.11"; empty for any.
        dependencies: In declared order.
        nodes: How many times the job starts at once.
        ports: A port of the job each; 0 is any free one.
        counted: Patterns of the files that count as its input; empty for all of the project.
        local_ports: What each must be on the person's machine; 0 for what is free there.
        options: Keys that only the provider knows.
        run_args: What was given on the command line for the script.
        secrets: Names of secrets that the job gets.
        registry_auth: What the image is pulled with.
        cache: Folders that are kept between runs of the workflow.
        max_duration_seconds: 0 for no limit, whatever the default is; None if nothing is said.
        idle_timeout_seconds: Of an application that nobody uses; 0 and None as above.
        retry: None if it is tried once.
        ssh: It is entered over SSH while it runs.
        prebuild: Whether what is installed for its job serves other jobs.
        direct: Made by `dstack run PROVIDER`, not written in a file.
    """

    name: str
    provider: str
    help: str = ""
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    script: str = ""
    arguments: str = ""
    requirements: str = ""
    setup: tuple[str, ...] = ()
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    working_dir: str = ""
    home_dir: str = ""
    artifacts: tuple[str, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    needs: Needs = field(default_factory=Needs)
    nodes: int = 1
    place: str = ""
    ports: tuple[int, ...] = ()
    counted: tuple[str, ...] = ()
    local_ports: tuple[int, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    run_args: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    registry_auth: RegistryAuth | None = None
    cache: tuple[str, ...] = ()
    max_duration_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    retry: Retry | None = None
    ssh: bool = False
    direct: bool = False
    prebuild: Prebuild = Prebuild.USUAL


Reader = Callable[[Workflow, Node, Scope], Workflow]
"""Reads the value of a key into a workflow; what is wrong goes to the scope."""


class Option(NamedTuple):
    """A flag that only one provider has.

    Attributes:
        spellings: As ("-c", "--command").
        key: The provider's key that it says.
        about: One line for people.
        example: A value, for messages; empty for a flag without one.
    """

    spellings: tuple[str, ...]
    key: str
    about: str
    example: str = ""


class Key(NamedTuple):
    """What a key means.

    Attributes:
        meaning: Keys of one meaning are spellings of each other.
        read: Reads its value.
        example: How to write it, for messages.
    """

    meaning: str
    read: Reader
    example: str
