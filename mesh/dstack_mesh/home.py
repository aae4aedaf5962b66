"""Where a peer keeps what it must remember: everything of one peer below one folder.

`DSTACK_HOME` (or `--home`) moves it; two homes on one machine are two peers. Import this module
from anywhere: it opens nothing and imports nothing heavy.
"""

import os
from pathlib import Path

from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen


@frozen
class Home:
    """The layout of a peer's folder. Only paths; nothing is made until `prepare`."""

    root: Path

    @classmethod
    def of_environment(cls, override: str | None = None) -> "Home":
        """The home that a flag, `DSTACK_HOME` or the user's directories name, in this order.

        Raises:
            Refused: The user has no home directory.
        """
        chosen = override or os.environ.get("DSTACK_HOME")
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        try:
            if chosen:
                return cls(Path(chosen).expanduser().absolute())
            return cls(Path(data).expanduser() / "dstack")
        except RuntimeError as error:
            why = "HOME is not set, and the system knows no home of this user."
            raise Refused("There is no place to keep anything.", why, "set DSTACK_HOME") from error

    def prepare(self) -> None:
        """Makes the folder, readable by its owner alone. Idempotent."""
        for folder in (self.root, self.keys, self.state, self.sockets, self.chunks, self.jobs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def keys(self) -> Path:
        """Private key, certificates, mesh membership."""
        return self.root / "keys"

    @property
    def state(self) -> Path:
        """SQLite databases and remembered peers."""
        return self.root / "state"

    @property
    def secrets(self) -> Path:
        """Values that jobs of a repository may ask for; made when the first one is kept."""
        return self.root / "secrets"

    @property
    def sockets(self) -> Path:
        """Unix sockets of the agent that runs in this home."""
        return self.root / "run"

    @property
    def agent_socket(self) -> Path:
        """Where the agent of this home serves its owner."""
        return self.sockets / "agent.sock"

    @property
    def chunks(self) -> Path:
        """The chunk store."""
        return self.root / "chunks"

    @property
    def jobs(self) -> Path:
        """One folder an attempt: work directory, log, what the shim wrote."""
        return self.root / "jobs"

    @property
    def environments(self) -> Path:
        """What was installed for jobs and serves later ones; made when the first one is kept."""
        return self.root / "environments"

    @property
    def ssh(self) -> Path:
        """How ssh gets into jobs: a folder for each one that is led to now."""
        return self.root / "ssh"

    @property
    def closed(self) -> tuple[Path, ...]:
        """What of it no job may have."""
        own = (self.keys, self.state, self.secrets, self.sockets, self.chunks, self.ssh)
        return (self.root, *own)

    @property
    def audit(self) -> Path:
        """The audit log of the agent; made when it starts."""
        return self.state / "audit"

    @property
    def saved_peers(self) -> Path:
        """Peers that were reached before."""
        return self.state / "peers.json"

    @property
    def config(self) -> Path:
        """What a person set: seeds, name, placement."""
        return self.root / "config.yaml"

    @property
    def remotes(self) -> Path:
        """Where runs and bytes are kept for everybody: places, and no secrets."""
        return self.root / "remotes.json"

    @property
    def policy(self) -> Path:
        """What the owner of the machine allows."""
        return self.root / "policy.yaml"
