"""Becomes a session of a job's SSH server. Standard library only: a copy of it runs by itself.

`python -I -S entering.py SHELL RC HOLDER`, the command that the server has for every session. The
server starts with nothing of the job's, but the process that started it, the holder, has in memory
the environment that the session gets, secrets included, and stands in its folder.
"""

# Loading pathlib would double the time until the prompt.
# ruff: noqa: PTH115, PTH123

import os
import sys

_OF_THE_SESSION = (b"SSH_AUTH_SOCK", b"SSH_CLIENT", b"SSH_CONNECTION", b"SSH_TTY", b"TERM")


def main() -> int:
    """Turns into the shell, or into the command that was asked for."""
    shell, rc, holder = sys.argv[1:]
    try:
        with open(f"/proc/{holder}/environ", "rb") as file:
            pairs = [line.partition(b"=") for line in file.read().split(b"\0") if line]
        os.chdir(os.readlink(f"/proc/{holder}/cwd"))
    except OSError as error:
        print(f"The job is over, or its folder is gone: {error}.", file=sys.stderr)
        return 1
    environment = {name: value for name, _, value in pairs}
    environment |= {name: os.environb[name] for name in _OF_THE_SESSION if name in os.environb}
    # A bash that believes to be the first below a connection reads ~/.bashrc even for a command.
    environment[b"SHLVL"] = b"1"
    os.execve(shell, _words(shell, rc), environment)


def _words(shell: str, rc: str) -> list[str]:
    command = os.environ.get("SSH_ORIGINAL_COMMAND")
    if command:
        return [shell, "-c", command]
    if not os.isatty(0):
        return [shell]
    return [shell, "--rcfile", rc, "-i"] if shell.endswith("bash") else [shell, "-i"]


if __name__ == "__main__":
    sys.exit(main())
