"""An ssh server of our own on loopback, as the yardstick: own keys, own port, own folder."""

import contextlib
import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SshHost:
    """Where it listens and with which options to reach it."""

    port: int
    options: tuple[str, ...]

    @property
    def target(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def command(self) -> tuple[str, ...]:
        """`ssh … user@host`, ready for a remote command."""
        return ("ssh", "-p", str(self.port), *self.options, self.target)


@contextlib.contextmanager
def ssh_host() -> Generator[SshHost]:
    """A server while the block runs.

    Raises:
        FileNotFoundError: There is no sshd on this machine (`apt-get install openssh-server`).
    """
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin") or "sshd"
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as name:
        folder = Path(name)
        for key in ("host", "user"):
            subprocess.run(
                ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)), check=True
            )
        shutil.copy(folder / "user.pub", folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        Path("/run/sshd").mkdir(exist_ok=True)
        server = subprocess.Popen(
            (
                *(sshd, "-D", "-e", "-f", "/dev/null", "-p", str(port)),
                *("-o", f"HostKey={folder / 'host'}", "-o", "ListenAddress=127.0.0.1"),
                *("-o", f"AuthorizedKeysFile={folder / 'authorized'}", "-o", "StrictModes=no"),
                *("-o", "PermitRootLogin=yes", "-o", "UsePAM=no"),
                *("-o", "Subsystem=sftp internal-sftp", "-o", f"PidFile={folder / 'pid'}"),
            ),
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port)
            yield SshHost(
                port,
                (
                    *("-i", str(folder / "user"), "-o", "IdentitiesOnly=yes"),
                    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
                    *("-o", "LogLevel=ERROR", "-o", "ControlMaster=no", "-F", "/dev/null"),
                ),
            )
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
