"""Where things of an agent that was added from afar are, on its host."""

import json
import os
import socket
from pathlib import Path
from typing import Any

UNIT = "dstack-runner.service"

OWN = frozenset(
    (
        *("keys", "state", "secrets", "run", "chunks", "checkouts", "jobs", "environments", "ssh"),
        *("software", "wheels", "config.yaml", "policy.yaml", "remotes.json"),
    )
)
"""What an agent keeps in its folder. Whatever else is there is somebody's."""


class Places:
    """The folders of one agent. `root` is its home, as `DSTACK_HOME`.

    Args:
        named: As a person wrote it, from the host's home directory on; "" for the usual one.
    """

    def __init__(self, named: str) -> None:
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        usual = Path(data).expanduser() / "dstack"
        self.root = Path.home() / Path(named).expanduser() if named else usual
        self.software = self.root / "software"
        self.wheels = self.software / "wheels"
        self.current = self.software / "current"
        self.serve = self.software / "serve"
        self.noted = self.software / "added.json"
        self.log = self.root / "state" / "agent.log"
        self.pid = self.root / "run" / "added.pid"
        self.socket = self.root / "run" / "agent.sock"
        self.membership = self.root / "keys" / "membership.json"

    @property
    def runner(self) -> Path:
        """The daemon's command."""
        return self.current / "bin" / "dstack-runner"

    @property
    def unit_name(self) -> str:
        """A second agent of the same user has a unit of its own."""
        usual = Places("")
        if self.root == usual.root:
            return UNIT
        letters = "".join(c if c.isalnum() else "-" for c in str(self.root)).strip("-")
        return UNIT.replace(".service", f"-{letters}.service")

    @property
    def unit(self) -> Path:
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        return Path(config).expanduser() / "systemd" / "user" / self.unit_name

    def other(self) -> str:
        """Something in the folder that is not an agent's; empty if there is nothing."""
        try:
            names = sorted(path.name for path in self.root.iterdir())
        except OSError:
            return ""
        return next((name for name in names if name not in OWN and name[:7] != ".probe-"), "")

    def read_noted(self) -> dict[str, Any]:
        """What was noted when it was added; empty if it was not, or if that was cut."""
        return read_json(self.noted)

    def answers(self) -> bool:
        """Whether an agent of this home listens now."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none."""
    try:
        content: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return dict(content) if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownArgumentType]


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes a file so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def session() -> dict[str, str]:
    """The environment in which `systemctl --user` finds its manager over ssh."""
    runtime = f"/run/user/{os.getuid()}"
    return {"XDG_RUNTIME_DIR": runtime, **os.environ}
