"""Which program installs what, and how it is told: uv where it is, else pip; conda for YAML."""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dstack_agent.executor.conda import find_conda
from dstack_agent.executor.pythons import Interpreter
from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen

_OPTIONS = re.compile(
    r"(PIP|UV|CONDA|MAMBA)_\w+|CC|CXX|FC|\w*FLAGS|LIBRARY_PATH|CPATH|CUDA_(HOME|PATH)"
    r"|TORCH_CUDA_ARCH_LIST|MAX_JOBS|SETUPTOOLS_\w+|SSL_CERT_(FILE|DIR)|GIT_\w+"
    r"|(HTTP|HTTPS|NO|ALL)_PROXY",
    re.IGNORECASE,
)
_FILES = frozenset({"PIP_CONSTRAINT", "PIP_REQUIREMENT", "UV_CONSTRAINT", "UV_OVERRIDE"})
_UV = {
    # A link into uv's own cache would let a job change what others install.
    "UV_LINK_MODE": "copy",
    # Nobody may write beside the sources later.
    "UV_COMPILE_BYTECODE": "1",
    "UV_NO_PROGRESS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    # As pip looks for a package: at all places that were named.
    "UV_INDEX_STRATEGY": "unsafe-best-match",
}
_PIP = {
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_WARN_SCRIPT_LOCATION": "1",
}
_CONDA = {"CONDA_ALWAYS_YES": "true", "CONDA_ALWAYS_COPY": "true", "CONDA_QUIET": "true"}
_PIP_LIES = re.compile(r"pip-(\d+)\.(\d+).*\.(?:dist|egg)-info")
_OLDEST_OF_UV = (3, 8)
_FOR_OTHERS = (22, 3)
"""pip from this version on installs for another interpreter than the one that runs it."""


@frozen
class Pip:
    """How packages are installed into an environment.

    Attributes:
        argv: What comes before the arguments of `pip install`.
        env: What the program wants to be told beside them.
        before: A program that has to run first; empty for none.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    before: tuple[str, ...] = ()


def options_of(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment changes what an installer does."""
    return {name: value for name, value in environment.items() if _OPTIONS.fullmatch(name)}


def names_files(options: Mapping[str, str]) -> bool:
    """Whether options name files, which nobody has read."""
    return not _FILES.isdisjoint(options)


def pip_for(python: Interpreter, environment: Path, search: str, uv_too: bool) -> Pip:
    """What installs into a virtual environment. Looks at files and runs nothing: what is there may
    be somebody else's.

    Args:
        search: A PATH.
        uv_too: Whether uv may be one of those that lie where a job sees nothing.

    Raises:
        Refused: There is neither uv nor pip for this Python.
    """
    target = str(environment / "bin" / "python")
    uv = find_uv(search) if uv_too else None
    if uv is not None and _version(python) >= _OLDEST_OF_UV:
        return Pip("uv", (str(uv), "pip", "install", "--python", target), _UV)
    own = str(python.path)
    inside = ("-m", "pip", "install")
    if _versions_of_pip([environment], "3*"):
        return Pip("pip", (target, *inside), _PIP)
    prefixes = [python.path.parent.parent, python.path.resolve().parent.parent]
    named = ".".join(map(str, _version(python)))
    if max(_versions_of_pip(prefixes, named), default=()) >= _FOR_OTHERS:
        return Pip("pip", (own, "-m", "pip", "--python", target, "install"), _PIP)
    if not _found(prefixes, f"lib*/python{named}/ensurepip/__init__.py"):
        raise Refused(
            f"There is neither uv nor pip for Python {python.version} on this machine.",
            "",
            "There: python3 -m pip install uv",
            "no-installer",
        )
    before = (target, "-m", "ensurepip", "--default-pip")
    return Pip("pip", (target, *inside), _PIP, before)


def find_uv(search: str) -> Path | None:
    """uv beside the agent, or on the PATH. A shim of pyenv answers for activated versions only."""
    ours = (Path(sys.prefix, "bin"), Path(sys.base_prefix, "bin"))
    places = [*map(str, ours), *search.split(os.pathsep)]
    usable = os.pathsep.join(each for each in places if Path(each).name != "shims")
    found = shutil.which("uv", path=usable)
    return Path(found) if found else None


def conda_argv(
    file: Path, prefix: Path, environment: Mapping[str, str], hidden: Sequence[Path]
) -> Pip:
    """What makes an environment of conda's. Raises Refused if no conda is here."""
    conda = find_conda(environment, hidden)
    if conda is None:
        raise Refused(
            f"{file.name} needs conda, which is not on this machine.",
            "Neither conda, mamba nor micromamba was found.",
            "Install Miniforge there, or run in a container: image: dstack/conda",
            "no-conda",
        )
    where = ("-p", str(prefix), "-f", str(file))
    if conda.root is None:
        argv = (str(conda.program), "create", "-y", "-q", "--always-copy", *where)
        return Pip("micromamba", argv, _CONDA)
    return Pip("conda", (str(conda.program), "env", "create", *where), _CONDA)


def _version(python: Interpreter) -> tuple[int, ...]:
    return tuple(map(int, python.version.split(".")[:2]))


def _versions_of_pip(prefixes: Sequence[Path], version: str) -> list[tuple[int, ...]]:
    """Of the pips that lie there for a version of Python."""
    folders = (f"python{version}/site-packages", f"python{version}/dist-packages")
    everywhere = (*folders, "python3/dist-packages")  # Debian's is for every version
    found = (
        _PIP_LIES.fullmatch(path.name)
        for folder in everywhere
        for path in _found(prefixes, f"lib*/{folder}/pip-*")
    )
    return [(int(each[1]), int(each[2])) for each in found if each is not None]


def _found(prefixes: Sequence[Path], pattern: str) -> list[Path]:
    return [path for prefix in prefixes for path in prefix.glob(pattern)]
