"""The shim that is started before there is a job for it. Standard library only: it imports this.

All that a shim loads is loaded while nobody waits for it. If the agent dies its input ends, and a
spare without a job ends too.
"""

import os
import sys

from dstack_agent.executor import record
from dstack_agent.executor.owning import own

NO_FOLDER = "-"
"""Stands for the folder of a shim that will be told it."""


def wait_for_a_job() -> int:
    """Takes the job that standard input tells of; returns 0 if it ends without one."""
    folder, nul, task = sys.stdin.buffer.read().partition(b"\0")
    if not nul:
        return 0
    name = os.fsdecode(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    errors = os.open(f"{name}/{record.ERRORS}", flags, 0o600)
    os.dup2(errors, 2)
    os.close(errors)
    return own(name, task)


def told(folder: str, task: bytes) -> bytes:
    """What a spare is told."""
    return os.fsencode(folder) + b"\0" + task
