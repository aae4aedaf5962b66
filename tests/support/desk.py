"""A person's checkout: what it holds, and what a job gets of it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from dstack_cli.code import Code, capture
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree
from dstack_mesh.home import Home


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    command = ("git", "-c", "protocol.file.allow=always", *arguments)
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@dataclass(slots=True)
class Desk:
    """A folder to work in, a home, and where captured code is laid out."""

    folder: Path
    home: Home
    store: ChunkStore
    laid: int = 0

    def capture(self, folder: Path) -> tuple[Code, Path]:
        """The code of a project and a copy as a job finds it."""
        code = capture(folder, self.store, self.home)
        self.laid += 1
        copy = self.folder / f"copy{self.laid}"
        lay_tree(self.store, code.digest, copy)
        return code, copy

    def repository(self, name: str = "project") -> Path:
        """A repository with a commit."""
        root = self.folder / name
        root.mkdir()
        git(root, "init", "-q", "-b", "main")
        write(
            root, {"train.py": "print('hi')\n", "src/model.py": "x = 1\n", ".gitignore": "*.tmp\n"}
        )
        git(root, "add", ".")
        git(root, "commit", "-qm", "first")
        return root


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def names(root: Path) -> set[str]:
    """Files of a copy, without those of git."""
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if (path.is_file() or path.is_symlink()) and ".git" not in path.relative_to(root).parts
    }


def assert_same_to_git(root: Path, copy: Path) -> None:
    """The copy is sound, and git says the same of both, but for what is staged."""
    git(copy, "fsck", "--strict")
    assert git(copy, "rev-parse", "HEAD") == git(root, "rev-parse", "HEAD")
    assert git(copy, "diff", "--binary", "HEAD") == git(root, "diff", "--binary", "HEAD")
    git(root, "reset", "-q")
    status = ("status", "--porcelain", "-uall", "-z")
    assert git(copy, *status) == git(root, *status)
