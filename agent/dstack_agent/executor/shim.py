"""Owns one job: `python -I -S -E shim.py FOLDER process|container`, its task on standard input.

With "-" for the folder it is a spare: it waits for the folder, a NUL and the task of a process.
The process that was started ends at once and the shim goes on as nobody's child. It answers with
one line on standard output: "ok" once the job is its own and runs, or why it may not run.
Everything that it imports is from the standard library and loads in milliseconds; a person waits.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH100, PTH120

import os
import sys


def main() -> int:
    """Runs the shim for the folder and the kind of job in argv."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.append(os.path.dirname(os.path.dirname(here)))  # -I and -S leave only the library
    if sys.argv[1] == "-":
        from dstack_agent.executor.spare import wait_for_a_job

        return wait_for_a_job()
    folder = os.path.abspath(sys.argv[1])
    if sys.argv[2] == "container":
        from dstack_agent.executor.tending import tend

        return tend(folder)
    from dstack_agent.executor.owning import own

    return own(folder, sys.stdin.buffer.read())


if __name__ == "__main__":
    sys.exit(main())
