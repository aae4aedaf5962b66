"""Joins the commands of a job into one script for one shell.

The rules, for `sh` and `bash` alike:

- All commands share one shell: `cd`, `export` and `conda activate` last to the end.
- The first command that fails ends the script with its exit code, and nothing after it runs.
- Each command is a whole: a comment, a here-document, a quote left open or a trailing backslash
  ends with it, and one that ends in `&` goes on in the background while the next one starts.
- `set -e` in a command works as at the top of a script, which it would not inside `a && b`.
"""

import shlex
from collections.abc import Sequence

_STOP_ON_FAILURE = "case $? in 0) ;; *) exit $? ;; esac"


def script(commands: Sequence[str]) -> str:
    """The script that runs the commands in order; empty for no commands.

    It may be longer than the 128 KiB that the kernel allows in one argument: hand it over as a file
    or on a pipe, not after `-c`.
    """
    if not commands:
        return ""
    lines = [line for command in commands[:-1] for line in (_whole(command), _STOP_ON_FAILURE)]
    return "\n".join([*lines, commands[-1], ""])


def _whole(command: str) -> str:
    # `eval` would read a dash in front as an option. After a backslash and a single newline at its
    # very end, bash 5.2 fails to parse the `case` on the next line.
    start = " " if command.startswith("-") else ""
    end = "\n\n" if command.endswith("\\") else "\n"
    return f"eval {shlex.quote(start + command + end)}"
