"""Asks the git command, several questions at a time, without side effects in the repository.

No hook, pager, prompt, file system monitor or network access is ever started by a question, and the
index is not refreshed on disk.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen

_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")

_OTHER_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
"""Set where a hook or an alias of git runs us; they would send our questions elsewhere."""


@frozen
class Answer:
    """What git said. `code` is its exit code."""

    code: int
    out: bytes
    trouble: str

    @property
    def items(self) -> list[str]:
        """The parts of output that ends each with NUL."""
        return os.fsdecode(self.out).split("\0")[:-1]

    def require(self, what: str) -> "Answer":
        """This answer. Raises Refused with git's words if git failed."""
        if self.code:
            raise Refused(what, f"git says: {self.trouble}")
        return self


def ask(folder: Path, *questions: Sequence[str]) -> list[Answer]:
    """Answers of git in a folder, in order; the questions run at the same time.

    Raises:
        Refused: There is no git.
    """
    asked = [start(folder, question) for question in questions]
    return [answer(process) for process in asked]


def start(
    folder: Path,
    arguments: Sequence[str],
    stdin: int | None = subprocess.DEVNULL,
    more_environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """A git process in a folder. Raises Refused if there is no git."""
    environment = {
        key: value for key, value in os.environ.items() if key not in _OTHER_REPOSITORY
    } | {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    try:
        return subprocess.Popen(
            ("git", *_OPTIONS, *arguments),
            cwd=folder,
            env={**environment, **(more_environment or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise Refused(
            "git is not installed here.",
            "It lists the files of your project and what to leave out.",
            "Install it, for example with `sudo apt-get install git`.",
            code="no-git",
        ) from error


def answer(process: "subprocess.Popen[bytes]") -> Answer:
    """Waits for a process and takes what it said."""
    out, trouble = process.communicate()
    return Answer(process.returncode, out, trouble.decode(errors="replace").strip())
