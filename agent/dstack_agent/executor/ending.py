"""What the way a job ended means. Standard library only: the shim imports it."""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH123

import os
import signal

from dstack_agent.executor.record import (
    ABORTED,
    COMMAND_NOT_FOUND,
    DISK_FULL,
    OUT_OF_MEMORY,
    STOPPED,
    TIME_LIMIT,
)

_ENDED_BY_US = {
    STOPPED: "It was asked to stop.",
    ABORTED: "It was aborted.",
    TIME_LIMIT: "It ran longer than it may.",
    DISK_FULL: "The disk with its log is full.",
}


def exit_code(status: int) -> int:
    """The exit code for a wait status as a shell has it: 128+n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def explain(code: int, ended_by: str, out_of_memory: bool) -> tuple[str, str]:
    """The stable word and the sentence for people.

    Args:
        code: The exit code as a shell has it.
        ended_by: The word for what we did to end it; empty if it ended by itself.
        out_of_memory: Whether the kernel ran out of memory and killed something meanwhile.
    """
    if ended_by:
        return ended_by, _ENDED_BY_US[ended_by]
    if code == 128 + signal.SIGKILL and out_of_memory:
        return OUT_OF_MEMORY, "Killed by the kernel: out of memory."
    if code == 128 + signal.SIGKILL:
        return "", "Killed by signal 9 (SIGKILL), possibly out of memory."
    if code == 127:
        return COMMAND_NOT_FOUND, "A command was not found (exit code 127)."
    if code > 128 and (name := signal_name(code - 128)):
        return "", f"Ended by signal {code - 128} ({name}), or exit code {code}."
    return "", f"The commands ended with exit code {code}." if code else ""


def with_cut(cause: str, lost_bytes: int, cut: bool) -> str:
    """The cause, and that not all of the log was kept where its limit was reached."""
    also = f"Its log reached the limit: {lost_bytes:,} bytes were not kept." if cut else ""
    return f"{cause} {also}".strip()


def signal_name(number: int) -> str:
    """ "SIGTERM" for 15; empty if there is no such signal."""
    return next((known.name for known in signal.Signals if known == number), "")


def oom_kills() -> int:
    """How many processes this machine's kernel killed for memory so far; 0 if it does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return 0
    return 0
