"""Tools that providers bring: installed into the job's environment unless they are there."""

import shlex
from collections.abc import Mapping

from dstack_scheduler.workflow.keys import PORTS, PYTHON, REQUIREMENTS, SETUP
from dstack_scheduler.workflow.model import Key, Workflow

TOOL_KEYS: Mapping[str, Key] = {
    "requirements": REQUIREMENTS,
    "before_run": SETUP,
    "setup": SETUP,
    "python": PYTHON,
    "ports": PORTS,
}
"""Keys of every provider with a tool of its own."""

_IS_THERE = "import importlib.metadata as m; m.version({name!r})"


def installed(package: str, version: str = "", extras: str = "") -> str:
    """A command after which a package is there, in the version that was asked for, or any.

    What is there already is taken without a look at the network: a lab's may be closed.

    Args:
        extras: What of it is optional and wanted, as "[standard]".
    """
    wanted = shlex.quote(f"{package}{extras}" + (f"=={version}" if version else ""))
    install = f"python -m pip install -q --disable-pip-version-check {wanted}"
    if version:
        return install
    check = f"python -c {shlex.quote(_IS_THERE.format(name=package))} 2>/dev/null"
    return f"{check} || {install}"


def own_port(workflow: Workflow) -> str:
    """The shell's word for the port of a provider's own app, which comes after the workflow's."""
    return f'"$PORT_{len(workflow.ports)}"'


def script_arguments(workflow: Workflow) -> str:
    """Arguments of a script as the shell has them: the file's, then the command line's."""
    return " ".join(filter(None, (workflow.arguments, shlex.join(workflow.run_args))))
