"""What a job wants installed, read so that the same wish has the same name.

A recipe is *shared* where nothing but its words decides what is installed: then what was built of
it is kept for other jobs. One that names files of the work tree, or a branch that moves, is not.
"""

import hashlib
import json
import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dstack_agent.environments.present import without_present
from dstack_agent.executor.pythons import Interpreter
from dstack_mesh.faults import Invalid, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.job import JobSpec

MOST_BYTES = 1 << 20
"""A file of requirements is no larger."""

MOST_FILES = 50
"""So many files may name each other."""

_FORM = 2
_SHOWN = 100
_FILES = {"-r", "--requirement", "-c", "--constraint"}
_EDITABLE = {"-e", "--editable"}
_LINKS = {"-f", "--find-links"}
_PINNED = re.compile(r"@[0-9a-f]{40}(?![0-9a-f])")
_LOCAL = re.compile(r"[./~]|.*(\.whl|\.tar\.gz|\.zip)$")
_CONDA_LOCAL = re.compile(r"\s*-\s*(-e|-r|-c|--|[./~]|file:)")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


@frozen
class Recipe:
    """What is installed.

    Attributes:
        python: For which interpreter; of conda's environments only where they bring none.
        steps: Arguments of each `pip install` of which something is missing, in order.
        conda: File of a conda environment, absolute; None for none.
        key: Names what is built of it; the same for everybody who wants the same.
        shared: Whether what was built may serve another job.
        variables: Names of variables that its files read.
    """

    python: Interpreter
    steps: tuple[tuple[str, ...], ...]
    conda: Path | None
    key: str
    shared: bool
    variables: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to install."""
        return not self.steps and self.conda is None

    @property
    def told(self) -> str:
        """For people: "requirements.txt, jupyterlab==4.1"."""
        words = [word for step in self.steps for word in step if not word.startswith("-")]
        shown = [_short(each) for each in ([self.conda.name, *words] if self.conda else words)]
        return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if shown[3:] else "")


@dataclass(slots=True)
class _Reading:
    """What was read so far."""

    work: Path
    values: Mapping[str, str]
    texts: list[str] = field(default_factory=list[str])
    variables: set[str] = field(default_factory=set[str])
    seen: set[Path] = field(default_factory=set[Path])
    shared: bool = True


def check_installs(spec: JobSpec) -> None:
    """Raises Refused if a container wants something installed: it has no place for it here."""
    if spec.installs and spec.executor is not ExecutorKind.PROCESS:
        raise Refused(
            "The agent installs nothing for a container.",
            f"{spec.workflow} has an image and wants {_short(spec.installs[0])} beside it.",
            "Install it in the container: `setup:`, or an image that has it.",
            "installs-in-container",
        )


def read_recipe(
    installs: Sequence[str],
    python: Interpreter,
    work: Path,
    start: Path,
    options: Mapping[str, str],
    whose: str,
    values: Mapping[str, str],
) -> Recipe:
    """Reads what a job wants, and the files that it names.

    Args:
        installs: As a specification has it.
        work: Root of the code: nothing above it is read.
        start: The job's working directory.
        options: Variables that change what an installer does, as the workflow has them.
        whose: What is built for one person serves nobody else.
        values: What variables of the files will be, but for secrets: those stay their names.

    Raises:
        Refused: A file is missing, is no text, or is too large.
        Invalid: The words cannot be split.
    """
    reading = _Reading(Path(os.path.realpath(work)), values)
    steps: list[tuple[str, ...]] = []
    conda: Path | None = None
    for line in installs:
        words = _split(line)
        if len(words) == 2 and words[0] in _FILES and words[1].endswith((".yml", ".yaml")):
            conda = start / words[1]
            _read_conda(conda, words[1], reading)
        else:
            steps.append(tuple(words))
            reading.texts.append(_expanded(line, reading))
            _read_words(words, start, reading)
    left = steps if conda else without_present(steps, python)
    wish = {
        "form": _FORM,
        "steps": left,
        "texts": reading.texts,
        "conda": conda is not None,
        "python": [python.version, str(python.path.resolve())],
        "platform": [platform.machine(), *platform.libc_ver()],
        "options": sorted(options.items()),
        "whose": whose,
    }
    key = hashlib.sha256(json.dumps(wish).encode()).hexdigest()[:32]
    shared, variables = reading.shared, frozenset(reading.variables)
    return Recipe(python, tuple(left), conda, key, shared, variables)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Invalid(
            "What the job wants installed cannot be read.", f"{_short(line)}: {error}."
        ) from error


def _read_words(words: Iterable[str], folder: Path, reading: _Reading) -> None:
    """Notes what arguments of pip, or a line of a file, depend on."""
    rest = iter(words)
    for word in rest:
        if word in _FILES:
            _read_file(folder, next(rest, ""), reading)
        elif word in _LINKS:
            place = next(rest, "")
            reading.shared &= "://" in place or place.startswith("/")
        elif word in _EDITABLE or _moves(_expanded(word, reading)):
            reading.shared = False


def _moves(word: str) -> bool:
    """Whether a requirement is a file of the job's own, or a place whose content changes."""
    if "git+" in word or re.match(r"(.* @ )?(hg|svn|bzr)\+", word):
        return _PINNED.search(word) is None
    return "file:" in word or ("://" not in word and _LOCAL.match(word) is not None)


def _read_file(folder: Path, name: str, reading: _Reading) -> None:
    if "://" in name:
        reading.shared = False
        return
    path = folder / name
    text = _text_of(path, name, reading)
    for line in _lines(text):
        read = _expanded(line, reading)
        reading.texts.append(read)
        _read_words(_words_of(read), path.parent, reading)
    reading.texts.append("")


def _lines(text: str) -> list[str]:
    """Lines as pip joins them, without comments and blanks."""
    joined = re.sub(r"\\\r?\n", " ", text)
    bare = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in bare if line]


def _words_of(line: str) -> list[str]:
    """An option and its value apart; of anything else the whole line."""
    if not line.startswith("-"):
        return [line]
    option, _, value = re.sub(r"^(--[\w-]+)=", r"\1 ", line).partition(" ")
    if not option.startswith("--") and len(option) > 2:  # as in -rbase.txt
        option, value = option[:2], option[2:] + value
    return [option, value.strip()] if value.strip() else [option]


def _read_conda(path: Path, name: str, reading: _Reading) -> None:
    text = _text_of(path, name, reading)
    lines = [line for line in _lines(text) if not line.startswith(("name:", "prefix:"))]
    read = [_expanded(line, reading) for line in lines]
    reading.texts += read
    reading.shared &= not any(_CONDA_LOCAL.match(line) for line in read)


def _expanded(line: str, reading: _Reading) -> str:
    """A line as an installer reads it; a variable that is empty or not there stays its name."""
    reading.variables.update(_VARIABLE.findall(line))
    return _VARIABLE.sub(lambda found: reading.values.get(found[1]) or found[0], line)


def _text_of(path: Path, name: str, reading: _Reading) -> str:
    """The text of a file of the work tree; each is read once."""
    try:
        real = Path(os.path.realpath(path))  # `resolve` breaks at links that lead to each other
    except ValueError as error:
        raise _unreadable(name, f"{error}.") from error
    if not real.is_relative_to(reading.work):
        # Whoever installs it looks at it with the job's rights, and not with the agent's.
        reading.shared = False
        return ""
    if real in reading.seen:
        return ""
    reading.seen.add(real)
    try:
        if not real.is_file():
            raise _unreadable(name, "There is no such file in the project as it was sent.")
        if real.stat().st_size > MOST_BYTES or len(reading.seen) > MOST_FILES:
            raise _unreadable(name, "It is too large, or too many files name each other.")
        return real.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(name, f"{error}.") from error


def _unreadable(name: str, why: str) -> Refused:
    return Refused(
        f"The requirements in {_short(name)} cannot be read.",
        why,
        "The path is relative to the working directory; a file that git ignores is not sent.",
        "no-requirements",
    )
