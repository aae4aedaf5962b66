"""Conda on this machine or in an image: where it is, and how `conda activate` comes to work.

`conda` is a function of the shell, which an interactive shell gets from its start-up files. Jobs
have no such shell, so the function is defined before their commands where these speak of conda.
"""

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dstack_mesh.frozen import frozen
from dstack_mesh.user import user_home

_NAMES = ("miniforge3", "miniconda3", "mambaforge", "anaconda3", "miniconda", "anaconda")
_SYSTEM = ("/opt/conda", *(f"/opt/{name}" for name in _NAMES))
_SPOKEN_OF = re.compile(r"\b(conda|mamba|micromamba)\b")
_FUNCTIONS = "etc/profile.d/conda.sh"
_ALONE = ("micromamba",)


@frozen
class Conda:
    """An installation.

    Attributes:
        program: `conda`, `mamba` or `micromamba`.
        root: Where it lies, with its base environment; None for micromamba, which has none.
    """

    program: Path
    root: Path | None = None


def find_conda(environment: Mapping[str, str], hidden: Sequence[Path] = ()) -> Conda | None:
    """The first one that is found, as a person of this machine would have it.

    Args:
        hidden: Folders that the job sees nothing of.
    """
    for root in _roots(environment):
        for name in ("conda", "mamba"):
            program = root / "bin" / name
            if not _within(root, hidden) and os.access(program, os.X_OK):
                return Conda(program, root)
    search = environment.get("PATH", os.defpath)
    for name in _ALONE:
        said = environment.get("MAMBA_EXE") or shutil.which(name, path=search)
        if said and not _within(Path(said), hidden) and os.access(said, os.X_OK):
            return Conda(Path(said))
    return None


def environments_of(conda_roots: Iterable[Path]) -> list[Path]:
    """Environments that are there, the base ones too."""
    found: list[Path] = []
    for root in conda_roots:
        found.append(root)
        try:
            found += sorted(each for each in (root / "envs").iterdir() if each.is_dir())
        except OSError:
            continue
    return found


def roots(environment: Mapping[str, str]) -> list[Path]:
    """Where conda is, of those places where it may be."""
    return [root for root in _roots(environment) if (root / "conda-meta").is_dir()]


def hook(
    commands: Iterable[str], environment: Mapping[str, str], hidden: Sequence[Path] = ()
) -> str:
    """What defines `conda` before commands of a process that speak of it; empty for nothing."""
    conda = find_conda(environment, hidden) if _speak_of_it(commands) else None
    if conda is None:
        return ""
    if conda.root is not None and (conda.root / _FUNCTIONS).exists():
        return f". {shlex.quote(str(conda.root / _FUNCTIONS))}\n"
    if conda.root is None:
        program = shlex.quote(str(conda.program))
        return f'eval "$({program} shell hook -s posix)"\nconda() {{ micromamba "$@"; }}\n'
    return ""


def hook_of_image(commands: Iterable[str]) -> str:
    """The same in an image, where nobody has looked."""
    if not _speak_of_it(commands):
        return ""
    places = " ".join(("/root/miniconda3", "/root/miniforge3", *_SYSTEM))
    return (
        f'for conda in "${{CONDA_DIR-}}" {places}; do\n'
        f'if [ -r "$conda/{_FUNCTIONS}" ]; then . "$conda/{_FUNCTIONS}"; break; fi\n'
        "done\nunset conda\n"
    )


def _speak_of_it(commands: Iterable[str]) -> bool:
    return any(_SPOKEN_OF.search(command) for command in commands)


def _roots(environment: Mapping[str, str]) -> list[Path]:
    home = Path(environment.get("HOME") or user_home() or "/")
    search = environment.get("PATH", os.defpath)
    said = [environment.get("CONDA_EXE"), shutil.which("conda", path=search)]
    of_programs = (Path(each).resolve().parent.parent for each in said if each)
    return list(
        dict.fromkeys([*of_programs, *(home / name for name in _NAMES), *map(Path, _SYSTEM)])
    )


def _within(path: Path, folders: Sequence[Path]) -> bool:
    real = path.resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in folders)
