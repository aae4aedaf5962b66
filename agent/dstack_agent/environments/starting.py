"""Runs an installer: `python -I -S -E starting.py PARENT PROGRAM ARGUMENTS…`.

The walls and the environment come over standard input. The installer has the walls that the job
will have, and writes for its user alone. Whatever it started ends with it, a daemon too, and all of
it with the agent, or when this process is asked to. Standard library only.
"""

# Loading pathlib would double the time that this takes.
# ruff: noqa: PTH100, PTH120

import json
import os
import signal
import sys
import time

_KILL_SECONDS = 10.0
_AGAIN_SECONDS = 0.02


def main() -> int:
    """The installer's exit code, once nothing of it is left."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.append(os.path.dirname(os.path.dirname(here)))  # -I and -S leave only the library
    from dstack_agent.executor import tree

    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    code = 128 + signal.SIGTERM
    try:
        tree.adopt_orphans()
        tree.die_with(int(parent), signal.SIGTERM)
        told = json.load(sys.stdin.buffer)
        code = _ran(command, told["env"], told["walls"])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        left = _end_all()
    if left:
        print("error: something of the installer cannot be ended", file=sys.stderr)
    return code or left


def _stop(number: int, _: object) -> None:
    sys.exit(128 + number)


def _ran(command: "list[str]", env: "dict[str, str]", walls: "list[list[str]] | None") -> int:
    """Runs the installer and waits for it; its orphans are reaped meanwhile."""
    mine = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(mine, command, env, walls)
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _become(
    parent: int, command: "list[str]", env: "dict[str, str]", walls: "list[list[str]] | None"
) -> None:
    """Turns the forked process into the installer; never returns."""
    from dstack_agent.executor import landlock, masks, tree

    code = 126
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        tree.die_with(parent)
        os.setsid()
        os.umask(0o022)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if walls is not None:
            writable, readable, masked = walls
            if masked:
                masks.put_up(masked, [*writable, *readable])
            landlock.restrict(writable, readable)
        os.execve(command[0], command, env)
    except (OSError, ValueError) as error:  # too much of it, or a name that none can be
        os.write(2, f"error: {command[0]}: {error}\n".encode())
        code = 127
    finally:
        os._exit(code)


def _end_all() -> int:
    """Ends all that is below; 1 if something is left."""
    from dstack_agent.executor import tree

    until = time.monotonic() + _KILL_SECONDS
    while _have_children():
        if time.monotonic() > until:
            return 1
        tree.kill_below(os.getpid())
        time.sleep(_AGAIN_SECONDS)
    return 0


def _have_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
