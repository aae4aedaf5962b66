"""A machine that ssh reaches: an sshd of our own on loopback, and a user who is not us.

The user is made for the block and removed with all that is theirs, processes included. With
`offline` the server runs in a network namespace whose only way out is the server's own port.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.eventually import eventually

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")


def missing() -> str:
    """What stands in the way of such a machine here; empty if nothing does."""
    if os.geteuid() != 0:
        return "making a user needs root"
    absent = [tool for tool in ("ssh", "ssh-keygen", "useradd") if shutil.which(tool) is None]
    absent += ["sshd"] if SSHD is None else []
    return f"this needs {' and '.join(absent)}" if absent else ""


@dataclass(slots=True)
class SshMachine:
    """Where it listens, where its agent may, and the files of whoever connects."""

    user: str
    port: int
    agent_port: int
    folder: Path
    address: str = "127.0.0.1"

    @property
    def target(self) -> str:
        return f"{self.user}@{self.address}:{self.port}"

    @property
    def home(self) -> Path:
        return Path(pwd.getpwnam(self.user).pw_dir)

    @property
    def key(self) -> Path:
        return self.folder / "user"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def flags(self) -> tuple[str, ...]:
        """What `dstack agents add` is given so that only our own files are read."""
        return (
            *("--identity", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "IdentitiesOnly=yes", "-o", "GlobalKnownHostsFile=/dev/null"),
        )

    def know(self, host_key: str = "host") -> None:
        """Puts the server's key where whoever connects looks for it."""
        kind, key = (self.folder / f"{host_key}.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {kind} {key}\n")

    def cut(self) -> None:
        """Breaks every connection, as a cable that is pulled does."""
        for pid in self.processes("sshd:"):
            os.kill(pid, signal.SIGKILL)

    def processes(self, part: str = "") -> list[int]:
        """Those of the user's whose command line has this part."""
        owner = pwd.getpwnam(self.user).pw_uid
        found: list[int] = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if folder.stat().st_uid == owner and words and part in words:
                    found.append(int(folder.name))
        return found


@contextlib.contextmanager
def ssh_machine(
    user: str, *options: str, prefix: Sequence[str] = (), address: str = "127.0.0.1"
) -> Generator[SshMachine]:
    """A machine while the block runs.

    Args:
        user: Is made, and removed at the end with all that it left.
        options: Of the server, as `Name=value`.
        prefix: What its command line begins with, as for a network namespace.
        address: Where it listens.
    """
    with _user(user) as home, ssh_server(user, *options, prefix=prefix, address=address) as machine:
        try:
            yield machine
        finally:
            _end_all(machine)
    assert not home.exists()


@contextlib.contextmanager
def ssh_server(
    user: str, *options: str, prefix: Sequence[str] = (), address: str = "127.0.0.1"
) -> Generator[SshMachine]:
    """A server alone, for a user who is there. Its keys are made for it."""
    with tempfile.TemporaryDirectory(prefix="dstack-sshd-") as name:
        folder = Path(name)
        for key in ("host", "user", "other"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        folder.chmod(0o755)
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "authorized").chmod(0o644)
        machine = SshMachine(user, free_port(), free_port(), folder, address)
        machine.know()
        Path("/run/sshd").mkdir(exist_ok=True)
        log = (folder / "log").open("wb")
        server = subprocess.Popen(
            (
                *prefix,
                *(SSHD or "sshd", "-D", "-e", "-f", "/dev/null", "-p", str(machine.port)),
                *("-o", f"HostKey={folder / 'host'}", "-o", f"ListenAddress={address}"),
                *("-o", f"AuthorizedKeysFile={folder / 'authorized'}", "-o", "StrictModes=no"),
                *("-o", "PasswordAuthentication=no", "-o", "UsePAM=no", "-o", "PidFile=none"),
                *(word for option in options for word in ("-o", option)),
            ),
            stderr=log,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        )
        try:
            eventually(lambda: b"listening" in (folder / "log").read_bytes(), within=10)
            yield machine
        finally:
            server.terminate()
            server.wait()
            log.close()


@contextlib.contextmanager
def _user(name: str) -> Generator[Path]:
    """A user whose home is in memory: thousands of files are laid there and removed again."""
    subprocess.run(("userdel", "-f", name), capture_output=True, check=False)
    with tempfile.TemporaryDirectory(prefix="dstack-home-") as folder:
        _run("mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "tmpfs", folder)
        try:
            home = Path(folder) / name
            _run("useradd", "--create-home", "--home-dir", str(home), "-s", "/bin/bash", name)
            # Without a password nobody logs in with one; "*" still lets keys in, "!" does not.
            _run("usermod", "-p", "*", name)
            Path(folder).chmod(0o755)
            yield home
        finally:
            subprocess.run(("userdel", "-f", name), capture_output=True, check=False)
            _run("umount", "-l", folder)


def _end_all(machine: SshMachine) -> None:
    def gone() -> bool:
        for pid in machine.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not machine.processes()

    eventually(gone, within=10)


def free_port() -> int:
    """One that nobody has, and that the kernel gives no outgoing connection meanwhile."""
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("No port is free.")


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr}"
