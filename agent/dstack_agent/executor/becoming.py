"""How a process that was forked turns into a job, or into a command beside one. Standard library
only: the shim imports it.
"""

import os
import resource
import signal

from dstack_agent.executor import landlock, masks, tree
from dstack_agent.executor.task import Task

NOT_FOUND, NOT_STARTED = 127, 126
"""Exit codes of a program that is not there, and of one that cannot be started."""


def settle(parent: int, streams: "tuple[int, int, int]") -> None:
    """Makes this process one of its own that dies with its parent, and has these streams.

    Raises:
        OSError: The system refuses.
    """
    tree.die_with(parent)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def wall_in(task: Task, spaces: "list[int] | None" = None) -> None:
    """Puts up the walls of a job around this process.

    Args:
        spaces: Namespaces in which its masks are up already, as `masks.spaces_of` opens them.

    Raises:
        OSError: The system refuses.
    """
    if spaces is not None:
        masks.join(spaces)
    elif task.masks:
        masks.put_up(task.masks, [*task.writable, *task.readable])
    if task.walled:
        landlock.restrict(task.writable, task.readable)
