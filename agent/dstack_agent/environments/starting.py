"""Becomes an installer: `python -I -S -E starting.py PARENT WALLS PROGRAM ARGUMENTS…`.

It dies with the agent, has the walls that the job will have, and writes for its user alone.
Standard library only.
"""

# Loading pathlib would double the time that this takes.
# ruff: noqa: PTH100, PTH120

import json
import os
import sys


def main() -> None:
    """Never returns."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.append(os.path.dirname(os.path.dirname(here)))  # -I and -S leave only the library
    from dstack_agent.executor import landlock, tree

    parent, walls, program, *arguments = sys.argv[1:]
    tree.die_with(int(parent))
    os.umask(0o022)
    if walls:
        writable, readable = json.loads(walls)
        landlock.restrict(writable, readable)
    try:
        os.execv(program, [program, *arguments])
    except OSError as error:
        print(f"error: {program}: {error}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
