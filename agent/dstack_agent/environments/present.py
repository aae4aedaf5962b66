"""What a job wants installed and has already, because the interpreter has it.

As pip sees it, that is no work; and a lab without an index can still use it.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterable

from dstack_agent.executor.pythons import Interpreter

MOST_NAMES = 200
"""Of more than these it is not looked at what is there."""

_SIMPLE = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[\w,.-]+\])?(?:==([\w.+!-]+))?")
_ASK = """import json, sys
try:
    from importlib import metadata
except ImportError:
    sys.exit(1)
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
_SECONDS = 20.0

Step = tuple[str, ...]


def without_present(steps: Iterable[Step], python: Interpreter) -> tuple[Step, ...]:
    """The installations that are left: those with more than names and exact versions, and those of
    which something is missing. Of extras it is not looked at what they bring.
    """
    simple = {step: wanted for step in steps if (wanted := _wanted(step))}
    names = {name for wanted in simple.values() for name in wanted}
    versions = _versions(names, python) if len(names) <= MOST_NAMES else {}

    def is_there(step: Step) -> bool:
        return step in simple and all(
            versions.get(name) is not None and version in ("", versions[name])
            for name, version in simple[step].items()
        )

    return tuple(step for step in steps if not is_there(step))


def _wanted(step: Step) -> dict[str, str]:
    """Names and versions; empty for a step with anything else in it."""
    found = [_SIMPLE.fullmatch(word) for word in step]
    named = [match for match in found if match is not None]
    return {match[1]: match[2] or "" for match in named} if len(named) == len(found) else {}


def _versions(names: set[str], python: Interpreter) -> dict[str, str | None]:
    if not names:
        return {}
    if str(python.path) == sys.executable:
        return {name: _version(name) for name in names}
    command = (str(python.path), "-c", _ASK, *sorted(names))
    try:
        asked = subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)
        return dict(json.loads(asked.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
