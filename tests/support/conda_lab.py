"""A stand-in for conda, where no channel can be reached: what we meet of it, and nothing else.

It has the folders of an installation, the shell functions of `etc/profile.d/conda.sh` with their
protocol (`conda shell.posix activate`), and `conda env create` and `conda create`, which make an
environment with an interpreter of its own: a copy of the one that runs the tests. Its packages
are wheels, those of `env create` from the folder `wheels`.
"""

import sys
from pathlib import Path

_FUNCTIONS = """
export CONDA_EXE='{root}/bin/conda'
__conda_activate() {{
    \\local ask_conda
    ask_conda="$("$CONDA_EXE" shell.posix "$@")" || \\return
    \\eval "$ask_conda"
}}
conda() {{
    \\local cmd="${{1-__missing__}}"
    case "$cmd" in
        activate|deactivate) __conda_activate "$@" ;;
        *) "$CONDA_EXE" "$@" ;;
    esac
}}
"""

_PROGRAM = """#!{python}
import os, pathlib, shlex, shutil, sys, sysconfig, zipfile

ROOT = pathlib.Path({root!r})
BASE, LIBRARY = pathlib.Path(sys.executable).resolve(), pathlib.Path(sysconfig.get_path("stdlib"))
NAME = f"python{{sys.version_info[0]}}.{{sys.version_info[1]}}"
VERSION = ".".join(map(str, sys.version_info[:3]))
LEFT_OUT = shutil.ignore_patterns(
    "test", "__pycache__", "*-packages", "config-*", "idlelib", "ensurepip", "lib2to3", "tkinter"
)


def prefix_of(words):
    if "/" in words[-1]:
        return pathlib.Path(words[-1]).absolute()
    places = os.environ.get("CONDA_ENVS_PATH", "").split(":")
    for place in (*filter(None, places), ROOT / "envs"):
        if (pathlib.Path(place) / words[-1] / "conda-meta").is_dir():
            return pathlib.Path(place) / words[-1]
    sys.exit(f"EnvironmentNameNotFound: Could not find conda environment: {{words[-1]}}")


def make(prefix, wheels=()):
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy2(BASE, prefix / "bin" / NAME)
    (prefix / "bin" / "python").symlink_to(NAME)
    shutil.copytree(LIBRARY, prefix / "lib" / NAME, ignore=LEFT_OUT)
    packages = prefix / "lib" / NAME / "site-packages"
    packages.mkdir()
    (packages.parent / "dist-packages").symlink_to("site-packages")  # as Debian's Python calls them
    for wheel in wheels:
        zipfile.ZipFile(wheel).extractall(packages)
        tool = pathlib.Path(wheel).name.partition("-")[0]
        script = prefix / "bin" / tool
        script.write_text(f"#!{{prefix}}/bin/python\\nfrom {{tool}}.script import main\\nmain()\\n")
        script.chmod(0o755)
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta" / f"python-{{VERSION}}-h0_0.json").write_text("{{}}")


def value(words, *names):
    return next((words[words.index(name) + 1] for name in names if name in words), None)


match sys.argv[1:]:
    case ["shell.posix", "activate", *words]:
        prefix = prefix_of(words)
        print(f"export CONDA_PREFIX={{shlex.quote(str(prefix))}}")
        print(f"export PATH={{shlex.quote(str(prefix / 'bin'))}}:\\"$PATH\\"")
    case ["shell.posix", "deactivate"]:
        print("unset CONDA_PREFIX; export PATH=\\"${{PATH#*:}}\\"")
    case ["env", "create", *words]:
        lines = pathlib.Path(value(words, "-f", "--file")).read_text().splitlines()
        if any("nobody-made-this" in line for line in lines):
            sys.exit("ResolvePackageNotFound:\\n  - nobody-made-this")
        names = [line.partition("- ")[2].strip() for line in lines]
        wheels = [wheel for name in names for wheel in (ROOT / "wheels").glob(f"{{name}}-*.whl")]
        make(pathlib.Path(value(words, "-p", "--prefix")), wheels)
    case ["create", *words]:
        place = value(words, "-p", "--prefix")
        wheels = [word for word in words if word.endswith(".whl")]
        make(pathlib.Path(place) if place else ROOT / "envs" / value(words, "-n", "--name"), wheels)
    case words:
        sys.exit(f"conda: {{words}} is not in this stand-in")
"""


def make_conda(root: Path, lies: str = "", python: str = sys.executable) -> Path:
    """An installation below a folder; its program.

    Args:
        lies: Where the folder will lie, if that is elsewhere.
        python: Of which its environments have copies.
    """
    for folder in ("bin", "etc/profile.d", "conda-meta", "envs"):
        (root / folder).mkdir(parents=True)
    there = lies or str(root)
    (root / "etc" / "profile.d" / "conda.sh").write_text(_FUNCTIONS.format(root=there))
    program = root / "bin" / "conda"
    program.write_text(_PROGRAM.format(root=there, python=python))
    program.chmod(0o755)
    return program
