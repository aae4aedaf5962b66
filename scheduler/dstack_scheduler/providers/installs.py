"""What of a workflow is installed by the agent, which keeps it for the next job, and what by the
job itself.

The agent installs `requirements`, what the provider needs, and the first of the `setup` commands as
far as they are plain `pip install`s: what they do depends on nothing but their words and the files
they name. From the first other command on, setup runs in the job.
"""

import re
import shlex

from dstack_scheduler.workflow.model import Workflow

_BEGINNINGS = (
    *(("pip", "install"), ("pip3", "install"), ("uv", "pip", "install")),
    *((python, "-m", "pip", "install") for python in ("python", "python3")),
)
_SHELLS_OWN = re.compile(r"[$`{}!\n\\]")
_ALONE = {"-U", "--upgrade", "--pre", "--no-deps"}
_OF_NO_USE = {"-q", "--quiet", "--no-cache-dir"}
_WITH_A_WORD = {
    *("-r", "--requirement", "-c", "--constraint", "-i", "--index-url", "--extra-index-url"),
    *("-f", "--find-links"),
}


def installs_of(workflow: Workflow, packages: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Arguments of each `pip install` that the agent does, in order, quoted for a shell."""
    if workflow.image:
        return ()
    required = (("-r", workflow.requirements),) if workflow.requirements else ()
    lifted, _ = _divided(workflow)
    steps = (*required, *((packages,) if packages else ()), *lifted)
    return tuple(map(shlex.join, steps))


def preparation(workflow: Workflow) -> tuple[str, ...]:
    """Commands that come before the main one."""
    if workflow.image and workflow.requirements:
        install = f"python -m pip install -r {shlex.quote(workflow.requirements)}"
        return (install, *workflow.setup)
    return workflow.setup if workflow.image else _divided(workflow)[1]


def _divided(workflow: Workflow) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Arguments of the plain installs that setup begins with, and the commands after these."""
    lifted: list[tuple[str, ...]] = []
    for number, command in enumerate(workflow.setup):
        arguments = _plain(command)
        if not arguments:
            return tuple(lifted), workflow.setup[number:]
        lifted.append(arguments)
    return tuple(lifted), ()


def _plain(command: str) -> tuple[str, ...]:
    """Arguments of a `pip install` that means the same wherever it is done; empty for all else."""
    words = _words(command)
    begin = next((each for each in _BEGINNINGS if tuple(words[: len(each)]) == each), None)
    if begin is None:
        return ()
    arguments: list[str] = []
    rest = iter(words[len(begin) :])
    for word in rest:
        if word in _WITH_A_WORD:
            arguments += [word, next(rest, "")]
        elif word in _ALONE or not word.startswith("-"):
            arguments.append(word)
        elif word not in _OF_NO_USE:
            return ()
    return () if "" in arguments else tuple(arguments)


def _words(command: str) -> list[str]:
    """The words of a command that is nothing but words; empty for all else."""
    if _SHELLS_OWN.search(command):
        return []
    split = shlex.shlex(command, posix=True, punctuation_chars=True)
    split.whitespace_split, split.commenters = True, ""
    try:
        words = list(split)
    except ValueError:
        return []
    # What a shell would act on stands alone here, unless it was quoted.
    if any(word[:1] in "#~" or not word.strip("();<>|&") or "*" in word for word in words):
        return []
    return words
