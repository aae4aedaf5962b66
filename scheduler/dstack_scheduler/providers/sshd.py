"""The SSH server of a job, as its commands start it.

The agent prepares it and says in a variable how it is started; the place among the commands decides
which environment and which folder a session begins with: those of that moment.
"""

from dstack_scheduler.app import App

START = "DSTACK_SSHD"
"""Tells a job the script that runs its SSH server."""

_SCRIPT = f'"${{{START}:?the agent is too old for jobs that are entered over SSH}}"'


def app_of(editor: bool = False) -> App:
    """What a person opens of it."""
    return App("ssh", ssh=True, editor=editor)


def foreground() -> str:
    """The command of a job that is there to be entered: it ends with the server.

    No `exec`: the first process dies with its shim, and then nobody would find the others by it.
    """
    return f"sh {_SCRIPT}; exit $?"


def beside() -> str:
    """The command that starts it beside others: no child of their shell, whose `wait` is theirs."""
    return f"(sh {_SCRIPT} &)"
