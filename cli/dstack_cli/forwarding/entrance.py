"""How the person's own ssh gets into a job: files of hers, there while the way is.

A folder for each way, below the home: one host for ssh, the key that opens the job, and the key
that its server has. So ssh asks nothing and meets nobody else, and nothing of hers is changed.
Whoever leads there holds a lock on the folder; what a killed command left, the next one removes.
"""

import fcntl
import os
import shlex
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote

from dstack_cli.forwarding.links import Link
from dstack_cli.forwarding.local_port import LOOPBACK
from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home
from dstack_scheduler.app import Login

_ALL = "lock"
"""File whose lock is held while folders are made and removed."""

CONFIG, KEY, KNOWN_HOSTS = "config", "key", "known_hosts"


@contextmanager
def entrance(home: Home, run: str, link: Link) -> Generator[Link]:
    """The link with what is typed to get in, for as long as the block runs; others as they are.

    Two ways into one run have names of their own: RUN, then RUN.2 and so on.
    """
    if not link.app.ssh or link.login is None:
        yield link
        return
    home.ssh.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(home.ssh):
        folder, held = _claimed(home.ssh, run)
        try:
            _write(folder, link, link.login)
        except BaseException:
            _remove(folder, held)
            raise
    try:
        yield _opened_by(folder, link, link.login)
    finally:
        with _alone(home.ssh):
            _remove(folder, held)


def _opened_by(folder: Path, link: Link, login: Login) -> Link:
    name, config = folder.name, folder / CONFIG
    included = _is_included(config)
    command = ("ssh", name) if included else ("ssh", "-F", str(config), name)
    there = f"ssh-remote+{name}{quote(login.folder)}"
    editor = f"vscode://vscode-remote/{there}" if link.app.editor else ""
    include = "" if included else f'Include "{folder.parent}/*/{CONFIG}"'
    return replace(link, command=shlex.join(command), editor=editor, include=include)


def _write(folder: Path, link: Link, login: Login) -> None:
    from dstack_mesh.ssh_keys import person_keys, server_keys  # most runs have no SSH server

    texts = {
        KEY: person_keys(link.token).private,
        KNOWN_HOSTS: f"{folder.name} {server_keys(link.token).public}\n",
        CONFIG: _config(folder, link.local, login.user),
    }
    for name, text in texts.items():
        write_durably(folder / name, text.encode(), sync=False)


def _config(folder: Path, port: int, user: str) -> str:
    """One host. It says what a person's own `Host *` must not: the first value counts."""
    return f"""Host {folder.name}
  HostName {LOOPBACK}
  Port {port}
  User {user}
  HostKeyAlias {folder.name}
  UserKnownHostsFile {_quoted(folder / KNOWN_HOSTS)}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  IdentityFile {_quoted(folder / KEY)}
  IdentitiesOnly yes
  PreferredAuthentications publickey
  ForwardAgent no
  ControlPath none
  ProxyJump none
  ServerAliveInterval 15
"""


def _quoted(path: Path) -> str:
    """A path as ssh's settings have it: % and $ would be put in."""
    return '"' + str(path).replace("%", "%%") + '"'


def _is_included(config: Path) -> bool:
    """Whether the person's own ssh reads a file, whatever host is meant."""
    try:
        text = (Path.home() / ".ssh" / "config").read_text(errors="replace")
    except (OSError, RuntimeError):
        return False
    for line in text.splitlines():
        keyword, *words = line.replace("=", " ", 1).split() or [""]
        if keyword.lower() in ("host", "match"):
            return False
        patterns = (Path(word.strip('"')).expanduser() for word in words)
        if keyword.lower() == "include" and any(fnmatch(str(config), str(p)) for p in patterns):
            return True
    return False


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Nobody else makes or removes folders while the block runs."""
    with (folder / _ALL).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _claimed(parent: Path, run: str) -> tuple[Path, int]:
    """A new folder for a way into a run, and its lock; what nobody holds any more is removed."""
    for left in parent.iterdir():
        if left.is_dir() and (held := _locked(left)) is not None:
            _remove(left, held)
    names = chain([run], (f"{run}.{number}" for number in count(2)))
    folder = next(path for path in (parent / name for name in names) if not path.exists())
    folder.mkdir(mode=0o700)
    held = _locked(folder)
    assert held is not None, "a folder that was just made is somebody else's"
    return folder, held


def _locked(folder: Path) -> int | None:
    """A descriptor that locks a folder until it is closed; None if somebody else does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
