"""Reads the files of a `.dstack` folder: the only module of the language that does I/O."""

from collections.abc import Iterable
from pathlib import Path

from dstack_scheduler.workflow.document import MAX_BYTES, SourceFile
from dstack_scheduler.workflow.project import Project, read_project

FOLDER = ".dstack"
_SUFFIXES = (".yaml", ".yml")


def load_project(root: Path) -> Project:
    """The project in a folder; without `.dstack` it has no workflows. Paths are relative to it.

    Reads `.dstack/workflows.yaml`, `.dstack/workflows/*.yaml` in order of name,
    `.dstack/variables.yaml`, `.dstack/templates.yaml` and `.dstack/providers.yaml`, each also with
    the ending `.yml`.
    """
    folder = root / FOLDER
    workflows = [*_named(folder, "workflows"), *_listed(folder / "workflows")]
    return read_project(
        [_read(root, path) for path in workflows],
        [_read(root, path) for path in _named(folder, "variables")],
        [_read(root, path) for path in _named(folder, "templates")],
        [_read(root, path) for path in _named(folder, "providers")],
    )


def _named(folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
    return [path for path in paths if path.exists() or path.is_symlink()]


def _listed(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)


def _read(root: Path, path: Path) -> SourceFile:
    name = path.relative_to(root).as_posix()
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            return SourceFile(name, trouble="This is not a file.", fix=f"move {name} away")
        with path.open("rb") as file:
            return SourceFile(name, file.read(MAX_BYTES + 1))
    except OSError as error:
        said = f"The file cannot be read: {error.strerror}."
        fix = f"chmod u+r {name}" if isinstance(error, PermissionError) else f"move {name} away"
        return SourceFile(name, trouble=said, fix=fix)
