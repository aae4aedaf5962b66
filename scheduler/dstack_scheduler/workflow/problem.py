"""Mistakes in what a person wrote: all of them at once, each with its place and a fix."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache

from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen


class Code(StrEnum):
    """The stable word of a mistake, for scripts."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    ENCODING = "encoding"
    SYNTAX = "syntax"
    TAB = "tab"
    TOO_DEEP = "too-deep"
    TOO_MANY_ALIASES = "too-many-aliases"
    CUSTOM_TAG = "custom-tag"
    DUPLICATE_KEY = "duplicate-key"
    UNKNOWN_KEY = "unknown-key"
    MISSING_KEY = "missing-key"
    SAID_TWICE = "said-twice"
    WRONG_TYPE = "wrong-type"
    EMPTY = "empty"
    BAD_NAME = "bad-name"
    BAD_NUMBER = "bad-number"
    BAD_SIZE = "bad-size"
    BAD_PATH = "bad-path"
    BAD_PYTHON = "bad-python"
    BAD_PORT = "bad-port"
    BAD_HOURS = "bad-hours"
    BAD_SPAN = "bad-span"
    BAD_ENV = "bad-env"
    BAD_DEPENDENCY = "bad-dependency"
    BAD_QUOTING = "bad-quoting"
    BAD_SECRET = "bad-secret"
    DUPLICATE_WORKFLOW = "duplicate-workflow"
    MISSING_PROVIDER = "missing-provider"
    UNKNOWN_PROVIDER = "unknown-provider"
    BROKEN_PROVIDER = "broken-provider"
    UNKNOWN_WORKFLOW = "unknown-workflow"
    UNKNOWN_TEMPLATE = "unknown-template"
    UNKNOWN_VARIABLE = "unknown-variable"
    CYCLE = "cycle"
    NOT_SUPPORTED_YET = "not-supported-yet"
    MISSING_VALUE = "missing-value"
    UNUSED_ARGUMENTS = "unused-arguments"


@frozen
class Place:
    """Where something stands, counted from 1; no file and line 0 is the command line."""

    file: str = ""
    line: int = 0
    column: int = 0
    length: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else "the command line"


@frozen
class Problem:
    """One mistake.

    Attributes:
        file: As it was given, as ".dstack/workflows.yaml"; empty for the command line.
        line: From 1; 0 for the command line.
        column: From 1; 0 for the command line.
        workflow: The workflow that it is in; may be empty.
        key: The key as it was spelled, as "resources.gpu"; may be empty.
        code: Stable word.
        message: What is wrong and the value seen.
        hint: What would fix it.
        source: The line of the file, to print a caret below; empty for the command line.
        length: Characters that the caret marks.
    """

    file: str
    line: int
    column: int
    workflow: str
    key: str
    code: Code
    message: str
    hint: str
    source: str = ""
    length: int = 1

    def __str__(self) -> str:
        place = Place(self.file, self.line, self.column)
        return f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class WorkflowProblems(Invalid):
    """What was written cannot be run; nothing was started."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        first = self.problems[0]
        where = sorted({problem.file or "the command line" for problem in self.problems})
        count = len(self.problems)
        many = "There is a mistake" if count == 1 else f"There are {count} mistakes"
        super().__init__(
            what=f"{many} in {', '.join(where)}.",
            why=f"{Place(first.file, first.line, first.column)}: {first.message}",
            hint=first.hint,
            code="workflow",
        )


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems as one reads the files: by file, line and column; each once."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.column)))


class Report:
    """Collects problems, and what was met on the way. Not safe to share between threads."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources
        self.problems: list[Problem] = []
        self.used: set[str] = set()

    def add(
        self,
        place: Place,
        code: Code,
        message: str,
        hint: str = "",
        workflow: str = "",
        key: str = "",
    ) -> None:
        """Notes a problem together with the line that it is on."""
        self.problems.append(
            Problem(
                place.file,
                place.line,
                place.column,
                workflow,
                key,
                code,
                message,
                hint,
                self._line(place),
                place.length,
            )
        )

    def _line(self, place: Place) -> str:
        lines = _lines(self.sources.get(place.file, ""))
        return lines[place.line - 1] if 0 < place.line <= len(lines) else ""


@lru_cache(maxsize=16)  # there is a report for each workflow, and all are of a few files
def _lines(text: str) -> list[str]:
    return text.splitlines()


MEANT: Mapping[str, str] = {
    "cmd": "commands",
    "command": "commands",
    "image_name": "image",
    "jupyter": "notebook",
    "jupyterlab": "lab",
    "model": "name",
    "needs": "depends-on",
    "output": "artifacts",
    "outputs": "artifacts",
    "run": "commands",
    "steps": "commands",
    "triggers": "depends-on",
    "type": "name",
    "vscode": "code",
}
"""Words that people wrote in workflow files for others, which no likeness would find."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    # Only people who made a mistake pay for the import.
    from difflib import get_close_matches

    options = sorted(set(known))
    if MEANT.get(word) in options:
        return MEANT[word]
    cutoff = 0.6 if len(word) > 3 else 0.5
    found = get_close_matches(word.lower(), options, n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint with the nearest known word, else the given hint, else the list of known words."""
    options = sorted(set(known))
    meant = nearest(word, options)
    if meant:
        return f'did you mean "{meant}"?'
    return otherwise or (f"known are: {one_of(options)}" if options else "")


def one_of(words: Sequence[str], most: int = 12) -> str:
    """Words for a sentence, not more than a person reads."""
    shown = ", ".join(words[:most])
    return f"{shown}, and {len(words) - most} more" if len(words) > most else shown
