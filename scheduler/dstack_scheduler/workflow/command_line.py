"""What `dstack run TARGET …` says after the target: variables, flags, and the script's own
arguments.

Variables come first (`--gpu 4` is the variable where the workflow has one of that name), then the
flags below, and the rest goes to the script in its order. After `--` everything is the script's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import NamedTuple

from dstack_mesh.frozen import frozen
from dstack_scheduler.workflow.commands import (
    read_more_ports,
    read_port_flags,
    read_requirements,
)
from dstack_scheduler.workflow.dependencies import read_reuses
from dstack_scheduler.workflow.environment import read_env
from dstack_scheduler.workflow.model import Option, Reader, Workflow
from dstack_scheduler.workflow.paths import read_artifacts, read_working_dir
from dstack_scheduler.workflow.problem import Code, Place
from dstack_scheduler.workflow.resources import (
    at_least_one,
    read_cards,
    read_cpus,
    read_gpu_memory,
    read_gpu_name,
    read_interruptible,
    read_memory,
    read_shm_size,
    settled,
)
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.ssh import read_no_ssh, read_ssh
from dstack_scheduler.workflow.tree import ListNode, Node, ScalarNode
from dstack_scheduler.workflow.variables import Finder, find_variable


class Flag(NamedTuple):
    """A flag of every provider that takes the key it stands for.

    Attributes:
        meaning: Of the key.
        read: Reads its value into the workflow.
        repeats: May be given several times; its values are read as one list.
        example: A value, for messages; empty for a flag without one.
        about: One line for people.
    """

    meaning: str
    read: Reader
    about: str
    example: str = ""
    repeats: bool = False


def _read_gpus(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    return settled(read_cards(workflow, node, scope))


def _for_a_card(read: Reader) -> Reader:
    def reading(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        return at_least_one(read(workflow, node, scope))

    return reading


def _read_deps(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    return read_reuses(replace(workflow, dependencies=()), node, scope)


FLAGS: Mapping[str, Flag] = {
    "--requirements": Flag("requirements", read_requirements, "File of pip requirements", "FILE"),
    "--env": Flag("env", read_env, "Add to the environment", "NAME=VALUE", repeats=True),
    "--artifact": Flag("artifacts", read_artifacts, "Keep this folder instead", "PATH", True),
    "--dep": Flag("deps", _read_deps, "Take this input instead", "WORKFLOW:TAG", True),
    "--working-dir": Flag("working_dir", read_working_dir, "Where the job works", "PATH"),
    "--ports": Flag("ports", read_port_flags, "Number of free ports, or a port", "1", True),
    "--port": Flag("ports", read_more_ports, "A port of the job: APP or APP:LOCAL", "8000", True),
    "--ssh": Flag("ssh", read_ssh, "Let it be entered over SSH"),
    "--no-ssh": Flag("ssh", read_no_ssh, "Do not, whatever the workflow says"),
    "--cpu": Flag("resources", read_cpus, "Processors, at least", "4"),
    "--memory": Flag("resources", read_memory, "Memory, at least", "16GB"),
    "--shm-size": Flag("resources", read_shm_size, "Size of /dev/shm", "8GB"),
    "--interruptible": Flag("resources", read_interruptible, "Where it may be interrupted"),
    "--gpu-name": Flag("resources", _for_a_card(read_gpu_name), "Model of the GPUs", "V100"),
    "--gpu-memory": Flag("resources", _for_a_card(read_gpu_memory), "Memory of each GPU", "16GB"),
    "--gpu": Flag("resources", _read_gpus, "GPUs, at least", "1"),
}
"""In the order in which they are carried out: a number of cards has the last word on cards."""

SHORT: Mapping[str, str] = {
    "-r": "--requirements",
    "-e": "--env",
    "-a": "--artifact",
    "-w": "--working-dir",
    "-p": "--ports",
    "-i": "--interruptible",
}


@frozen
class Overrides:
    """Flags that were given: long name to values, as `{"--gpu": ("1",)}`."""

    given: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    def over(self, other: "Overrides") -> "Overrides":
        """Both, this one's values winning."""
        return Overrides({**other.given, **self.given})


NO_OVERRIDES = Overrides()


@frozen
class Typed:
    """A command line, taken apart.

    Attributes:
        variables: By their declared names.
        overrides: Flags.
        keys: Keys of the provider, given by its own flags.
        rest: The script's, in order.
    """

    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    overrides: Overrides = NO_OVERRIDES
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    rest: tuple[str, ...] = ()


def take_apart(
    args: Sequence[str],
    declared: Iterable[str],
    options: Mapping[str, Option],
    takes: Callable[[str], bool],
    scope: Scope,
    find: Finder = find_variable,
) -> Typed:
    """Sorts what was typed.

    Args:
        declared: Names of variables.
        options: Of the provider that is run directly, by spelling.
        takes: Whether the provider takes a meaning; flags for others are the script's.
        find: The declared variable that a name means.
    """
    names = tuple(declared)
    variables: dict[str, str] = {}
    keys: dict[str, str] = {}
    given: dict[str, tuple[str, ...]] = {}
    rest: list[str] = []
    words = list(args)[::-1]
    while words:
        word = words.pop()
        if word == "--":
            rest.extend(reversed(words))
            break
        flag, value = _split(word)
        variable = find(flag[2:], names) if flag.startswith("--") else None
        long = SHORT.get(flag, flag)
        row = FLAGS.get(long)
        option = options.get(flag)
        if variable is not None:
            _put(variables, variable, _value(flag, value, words, "VALUE", scope))
        elif option is not None:
            text = _taken(flag, option.example, value, words, scope)
            _put(keys, option.key, text)
        elif row and takes(row.meaning):
            text = _taken(flag, row.example, value, words, scope)
            if text is not None:
                given[long] = (*given.get(long, ()), text) if row.repeats else (text,)
        else:
            rest.append(word)
    return Typed(variables, Overrides(given), keys, tuple(rest))


def override(workflow: Workflow, overrides: Overrides, scope: Scope) -> Workflow:
    """The workflow with the flags carried out."""
    for name, flag in FLAGS.items():
        values = overrides.given.get(name, ())
        if values:
            nodes = tuple(written(value) for value in values)
            node = ListNode(Place(), nodes) if flag.repeats else nodes[-1]
            workflow = flag.read(workflow, node, replace(scope, key=name))
    return workflow


def written(text: str) -> ScalarNode:
    """A word of the command line as a value."""
    return ScalarNode(Place(), text)


def _split(word: str) -> tuple[str, str | None]:
    if not word.startswith("--"):
        return word, None
    flag, equals, value = word.partition("=")
    return flag, value if equals else None


def _put(into: dict[str, str], name: str, value: str | None) -> None:
    if value is not None:
        into[name] = value


def _taken(
    flag: str, example: str, value: str | None, words: list[str], scope: Scope
) -> str | None:
    """What a flag says, which is true where it takes no value."""
    return _value(flag, value, words, example, scope) if example else value or "true"


def _value(
    flag: str, value: str | None, words: list[str], example: str, scope: Scope
) -> str | None:
    """The value of a flag: after its `=`, or the next word, which may begin with one dash."""
    if value is not None:
        return value
    if words and not words[-1].startswith("--"):
        return words.pop()
    replace(scope, key=flag).complain(
        Place(), Code.MISSING_VALUE, f"{flag} has no value.", f"write {flag} {example}"
    )
    return None
