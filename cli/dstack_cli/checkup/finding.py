"""What a check found."""

from enum import Enum
from typing import Literal

from dstack_mesh.frozen import frozen

Topic = Literal["machine", "network", "gpu", "docker", "cloud"]


class Grade(Enum):
    """How it is."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Finding:
    """One check's result.

    Attributes:
        check: What was looked at.
        message: What was seen.
        fix: Can be pasted where that is possible.
        cause: A stable word for what is wrong; empty if nothing is.
    """

    check: str
    grade: Grade
    message: str
    fix: str = ""
    cause: str = ""
    topic: Topic = "machine"


def passed(check: str, message: str) -> Finding:
    return Finding(check, Grade.PASS, message)


def warned(check: str, cause: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Grade.WARN, message, fix, cause)


def failed(check: str, cause: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Grade.FAIL, message, fix, cause)
