"""The SSH server of a job in a container: the image's own OpenSSH, within the container's walls.

As that of a process (`sshd.py`) it runs as the job's user, is started by the job's commands (`sh
"$DSTACK_SSHD"`), lets in one key and ends with the job; nothing of the machine is reached by it.
Its port is led to the machine's loopback, as any port of a container. An SSH server lets in nobody
whom the system has no account for, so the container gets one before it starts.

A session begins with the environment and in the folder of the commands at that moment, which they
leave in the container's memory.
"""

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Protocol

from dstack_agent.executor.container import SECRETS, Mount
from dstack_agent.executor.environment import CONTAINER_HOME
from dstack_agent.executor.port import Launch
from dstack_agent.executor.sshd import (
    BESIDE,
    ENTER,
    FOLDER,
    KEY,
    LETS_IN,
    RC,
    SETTINGS,
    SFTP,
    START,
    own_files,
    settings_of,
)
from dstack_mesh.faults import Refused

USER = "dstack"
"""The account of a job in its container."""

PLACE = PurePosixPath("/run/dstack-ssh")
"""Where a container has the files of its server; it only reads them."""

SCRIPT = PLACE / START
"""What the job's commands run."""

_ACCOUNTS = "etc/passwd"
_MOST_BYTES = 1 << 20
_SESSION, _THERE = SECRETS / ".session", SECRETS / ".there"

_START = f"""#!/bin/sh
server=$(PATH="$PATH:{BESIDE}" command -v sshd) || {{
  echo 'Nobody can enter this job: its image has no sshd (apt-get install openssh-server).' >&2
  exit 127
}}
sftp=
for folder in {" ".join(SFTP)}; do
  if [ -x "$folder/sftp-server" ]; then sftp="-oSubsystem=sftp $folder/sftp-server"; fi
done
(umask 077; export -p >{_SESSION}; pwd >{_THERE})
"$server" -D -e -f {PLACE / SETTINGS} ${{sftp:+"$sftp"}}
exit $?
"""

_ENTER = f"""term=$TERM command=$SSH_ORIGINAL_COMMAND
unset SSH_ORIGINAL_COMMAND
. {_SESSION}
export TERM="$term" SHLVL=1
IFS= read -r there <{_THERE}
cd "$there" || exit 1
shell=sh
if command -v bash >/dev/null 2>&1; then shell=bash; fi
if [ "$command" ]; then exec $shell -c "$command"; fi
if ! [ -t 0 ]; then exec $shell; fi
if [ $shell = bash ]; then exec bash --rcfile {PLACE / RC} -i; fi
exec sh -i
"""


class Archives(Protocol):
    """What we use of the SDK's `APIClient`, whose own types are incomplete."""

    def get_archive(self, container: str, path: str) -> tuple[Iterable[bytes], Any]: ...
    def put_archive(self, container: str, path: str, data: bytes) -> bool: ...


def why_no_containers_sshd() -> str:
    """Why no container of this user can be entered over SSH, as a sentence; empty if it can."""
    if os.getuid() == 0:
        return "The agent is root, and in a container root has not what its SSH server needs."
    return ""


def lay(launch: Launch, user: tuple[int, int]) -> Mount:
    """Writes all that the server of a container needs; returns where the container has it.

    Args:
        launch: Of a job that is entered.
        user: Whom the container runs as.

    Raises:
        OSError: The disk does not take it.
        Refused: Root has not what the server needs.
    """
    if user[0] == 0:
        raise Refused("The container cannot be entered.", why_no_containers_sshd(), code="no-ssh")
    folder = launch.folder / FOLDER
    port = launch.ports[next(app.port for app in launch.spec.apps if app.ssh)]
    keys = (str(PLACE / KEY), str(PLACE / LETS_IN))
    settings = settings_of(f"0.0.0.0:{port}", *keys, USER, CONTAINER_HOME)
    force = f"ForceCommand exec sh {PLACE / ENTER}\n"
    own_files(launch.folder, launch.ssh, {SETTINGS: settings + force, ENTER: _ENTER, START: _START})
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, *user)
    return Mount(folder, PLACE, read_only=True)


def give_account(engine: Archives, container: str, user: tuple[int, int]) -> None:
    """Gives a container that did not start an account for whom it runs as, before its others."""
    uid, gid = user
    own = f"{USER}:*:{uid}:{gid}::{CONTAINER_HOME}:/bin/sh\n".encode()
    text = own + _accounts(engine, container)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(_ACCOUNTS)
        entry.size, entry.mode = len(text), 0o644
        tar.addfile(entry, io.BytesIO(text))
    engine.put_archive(container, "/", packed.getvalue())


def _accounts(engine: Archives, container: str) -> bytes:
    """The accounts of the image; none where it has no list of them, or an enormous one."""
    from docker.errors import NotFound

    try:
        parts, _ = engine.get_archive(container, f"/{_ACCOUNTS}")
        packed = bytearray()
        for part in parts:
            packed += part
            if len(packed) > _MOST_BYTES:
                return b""
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            entry = tar.next()
            file = tar.extractfile(entry) if entry is not None and entry.isfile() else None
            return file.read() if file is not None else b""
    except (NotFound, tarfile.TarError):
        return b""
