"""Python interpreters that jobs can ask for with `python: "3.11"`.

Looked for by name, none is run: this agent's own, `pythonX.Y` on the PATH, versions that pyenv, uv
and conda installed.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dstack_agent.executor.conda import environments_of, roots
from dstack_mesh.user import user_home

_ON_PATH = re.compile(r"python(\d+\.\d+)")
_RECORD = re.compile(r"python-(\d+\.\d+\.\d+)-")
_MANAGED = re.compile(r"(?:cpython-)?(\d+\.\d+\.\d+)(?:-.*)?")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python. The version has two parts where the name does not tell the third."""

    version: str
    path: Path


def available(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Versions that jobs can have here, the agent's own first, then the newest first."""
    agents, *others = interpreters(environment)
    versions = sorted({each.version for each in others}, key=_parts, reverse=True)
    full = {each for each in (agents.version, *versions) if each.count(".") > 1}
    return tuple(
        dict.fromkeys(
            each
            for each in (agents.version, *versions)
            if each in full or not any(version_fits(each, known) for known in full)
        )
    )


def find(wanted: str, environment: Mapping[str, str] = os.environ) -> Interpreter | None:
    """An interpreter of the version, the agent's own where it fits, then the newest."""
    agents, *others = interpreters(environment)
    ordered = (agents, *sorted(others, key=lambda each: _parts(each.version), reverse=True))
    return next((each for each in ordered if version_fits(wanted, each.version)), None)


def version_fits(wanted: str, version: str) -> bool:
    """Whether a version is what was asked for, as far as both are known: 3.11 fits 3.11.7."""
    return all(a == b for a, b in zip(wanted.split("."), version.split("."), strict=False))


def own() -> Interpreter:
    """The one that runs this agent."""
    return Interpreter(".".join(map(str, sys.version_info[:3])), Path(sys.executable))


def interpreters(environment: Mapping[str, str] = os.environ) -> list[Interpreter]:
    """All that are found, this agent's own first."""
    home = Path(environment.get("HOME") or user_home() or "/")
    pyenv = Path(environment.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    data = Path(environment.get("XDG_DATA_HOME") or home / ".local/share")
    uv = Path(environment.get("UV_PYTHON_INSTALL_DIR") or data / "uv/python")
    return [
        own(),
        *_managed(pyenv),
        *_managed(uv),
        *_of_conda(environment),
        *_on_path(environment.get("PATH", "")),
    ]


def of_conda(prefix: Path) -> Interpreter | None:
    """The Python of an environment that conda made; None if it has none, or conda did not."""
    for record in _listing(prefix / "conda-meta", "python-*.json"):
        named = _RECORD.match(record.name)
        path = prefix / "bin" / "python"
        if named is not None and os.access(path, os.X_OK):
            return Interpreter(named[1], path)
    return None


def how_to_get(version: str) -> str:
    """What a person can do about a Python that is not on a machine."""
    return (
        f"There: uv python install {version}, or pyenv install {version}, or conda create -n"
        f" py{version.replace('.', '')} python={version}. Or run in a container: image:"
        f" dstack/python:{version}"
    )


def _of_conda(environment: Mapping[str, str]) -> Iterator[Interpreter]:
    for prefix in environments_of(roots(environment)):
        found = of_conda(prefix)
        if found is not None:
            yield found


def _managed(folder: Path) -> Iterator[Interpreter]:
    for each in _listing(folder):
        named = _MANAGED.fullmatch(each.name)
        if named is None or each.is_symlink():
            continue
        path = each / "bin" / f"python{'.'.join(named[1].split('.')[:2])}"
        if os.access(path, os.X_OK):
            yield Interpreter(named[1], path)


def _on_path(search: str) -> Iterator[Interpreter]:
    for folder in map(Path, filter(None, search.split(os.pathsep))):
        # What pyenv puts there answers only for versions that were activated.
        for each in () if folder.name == "shims" else _listing(folder, "python*"):
            named = _ON_PATH.fullmatch(each.name)
            if named is not None and os.access(each, os.X_OK):
                yield Interpreter(named[1], each)


def _listing(folder: Path, pattern: str = "*") -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
