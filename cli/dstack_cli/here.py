"""Which repository a command was called in: tags belong to one."""

from pathlib import Path

from dstack_cli.repository import normalised, read_repository
from dstack_mesh.faults import Refused


def repo_of(folder: Path) -> str:
    """The repository as runs of this folder name it."""
    try:
        repository = read_repository(folder)
    except Refused:
        repository = None
    if repository is None:
        return folder.absolute().name
    return normalised(repository.remote) or repository.root.name
