"""What the providers with a tool of their own have in common."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.workflow.keys import PORTS, PYTHON, REQUIREMENTS, SETUP, SSH
from dstack_scheduler.workflow.model import Key, Workflow

TOOL_KEYS: Mapping[str, Key] = {
    "requirements": REQUIREMENTS,
    "before_run": SETUP,
    "setup": SETUP,
    "python": PYTHON,
    "ports": PORTS,
}
"""Keys of every provider with a tool of its own."""

WORKPLACE_KEYS: Mapping[str, Key] = {**TOOL_KEYS, "ssh": SSH}
"""Of those that people work in, who may want a terminal beside."""


def package(name: str, version: str = "") -> str:
    """What is installed of a tool: the version that was asked for, or any."""
    return f"{name}=={version}" if version else name


def own_port(workflow: Workflow) -> str:
    """The shell's word for the port of a provider's own app, which comes after the workflow's."""
    return f'"$PORT_{len(workflow.ports)}"'


def script_arguments(workflow: Workflow) -> str:
    """Arguments of a script as the shell has them: the file's, then the command line's."""
    return " ".join(filter(None, (workflow.arguments, shlex.join(workflow.run_args))))
