"""The secrets of a repository, kept in this home and nowhere else: a file of the owner's alone.

Whoever can read this user's files can read them; they are not encrypted.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path

from dstack_cli.repository import normalised, read_repository
from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Conflict, Damaged, Missing, Refused
from dstack_mesh.home import Home


class SecretStore:
    """Names and values of one repository.

    Args:
        scope: The repository: its remote, or its folder where it has none.
    """

    def __init__(self, home: Home, scope: str) -> None:
        self._folder = home.secrets
        self._scope = scope
        name = hashlib.sha256(scope.encode()).hexdigest()[:32]
        self._path = self._folder / f"{name}.json"

    @classmethod
    def of_folder(cls, home: Home, folder: Path) -> "SecretStore":
        """The secrets of the repository that a folder is in."""
        return cls(home, _scope_of(folder))

    @property
    def scope(self) -> str:
        """The repository, for people."""
        return self._scope

    def read(self) -> dict[str, str]:
        """Values by name. Raises Damaged."""
        try:
            kept = json.loads(self._path.read_bytes())["secrets"]
            return {str(name): str(value) for name, value in sorted(kept.items())}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # The text of the error may hold a part of the file.
            why = f"{type(error).__name__} while it was read."
            raise Damaged(f"{self._path} cannot be read.", why, code="secrets-damaged") from None

    def put(self, name: str, value: str, over: bool) -> None:
        """Keeps a value.

        Args:
            over: Whether one of the name must be there already; else none may be.

        Raises:
            Conflict: There is one, and none may be.
            Missing: There is none, and one must be.
        """
        with self._changing() as kept:
            if over:
                self._must_have(name, kept)
            elif name in kept:
                raise secret_exists(name)
            kept[name] = value

    def remove(self, name: str) -> None:
        """Forgets a value. Raises Missing."""
        with self._changing() as kept:
            self._must_have(name, kept)
            del kept[name]

    def _must_have(self, name: str, kept: Mapping[str, str]) -> None:
        if name not in kept:
            raise Missing(
                f"There is no secret {name} here.",
                f"{self._scope} has {', '.join(kept) or 'none'}.",
                f"dstack secrets add {name}",
                "no-such-secret",
            )

    @contextlib.contextmanager
    def _changing(self) -> Generator[dict[str, str]]:
        """The values, to be changed by one command at a time."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = self.read()
            yield kept
            shape = {"repository": self._scope, "secrets": kept}
            write_durably(self._path, json.dumps(shape).encode())
        finally:
            os.close(lock)


def secret_exists(name: str) -> Conflict:
    """The error of a name that is taken."""
    return Conflict(
        f"There is a secret {name} already.",
        hint=f"dstack secrets update {name}",
        code="secret-exists",
    )


def _scope_of(folder: Path) -> str:
    # Unlike a tag's repository it is not only a name: folders of one name must not share secrets.
    try:
        repository = read_repository(folder)
    except Refused:
        repository = None
    if repository is None:
        return str(folder.resolve())
    return normalised(repository.remote) or str(repository.root.resolve())
