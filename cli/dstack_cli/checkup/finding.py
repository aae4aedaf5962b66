"""What a check found."""

from enum import Enum

from dstack_mesh.frozen import frozen


class Grade(Enum):
    """How it is."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Finding:
    """One check's result. `fix` can be pasted where that is possible."""

    check: str
    grade: Grade
    message: str
    fix: str = ""


def passed(check: str, message: str) -> Finding:
    return Finding(check, Grade.PASS, message)


def warned(check: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Grade.WARN, message, fix)


def failed(check: str, message: str, fix: str = "") -> Finding:
    return Finding(check, Grade.FAIL, message, fix)
