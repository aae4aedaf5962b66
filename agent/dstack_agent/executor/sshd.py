"""The SSH server of a process job: OpenSSH's own, which needs no right but the user's.

It listens on the loopback of the job's machine, is started by the job's commands (`sh
"$DSTACK_SSHD"`), and so ends with them. It lets in one key, which is made from the attempt's token,
as its own is. Every session begins with the environment that the server was started with, and in
the same folder.
"""

import grp
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from dstack_agent.executor import entering
from dstack_mesh.ssh_keys import person_keys, server_keys
from dstack_mesh.user import user_name

FOLDER = "ssh"
"""Folder of a job for its SSH server; the job only reads it."""

ENTER, KEY, LETS_IN, RC, SETTINGS, START = (
    *("enter.py", "host_key", "authorized_keys", "bashrc", "sshd_config", "start"),
)

_OF_ROOT = Path("/run/sshd")
"""Where a server of root shuts itself in. It is made by whatever starts the machine's own."""

BESIDE = "/usr/sbin:/usr/local/sbin:/sbin"
SFTP = (
    *("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec"),
    *("/usr/lib64/ssh", "/usr/local/libexec"),
)
_NO_SHELLS = ("nologin", "false")

BASHRC = """# What the person sets for all her shells does not go over the job's environment.
__dstack=$(export -p)
[ ! -r ~/.bashrc ] || . ~/.bashrc
eval "$__dstack"
unset __dstack
"""
"""What a person's shell in a job reads first."""


def why_no_sshd(walled: bool = False, search: str | None = None) -> str:
    """Why no job of this user can be entered over SSH, as a sentence; empty if it can.

    Args:
        walled: It is a job of somebody else, and has walls.
        search: Folders where the server may lie, as in PATH; by default all of the usual ones.
    """
    if shutil.which("sshd", path=_places() if search is None else search) is None:
        return "OpenSSH's server, sshd, is not installed here."
    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        return f"The system has no account for user {os.getuid()}, whom SSH could let in."
    if Path(account.pw_shell).name in _NO_SHELLS:
        return f"The account {account.pw_name} has no login shell ({account.pw_shell})."
    if walled and os.getuid() == 0:
        return "The agent is root, and the SSH server of root does not start within walls."
    return _why_no_terminal()


@lru_cache(maxsize=1)  # how /dev/pts is mounted stays while the agent runs
def _why_no_terminal() -> str:
    """Why sshd could give nobody a terminal: only root makes one the group's that it wants."""
    if os.getuid() == 0:
        return ""
    try:
        ours, theirs = os.openpty()
    except OSError as error:
        return f"There are no terminals here: {error.strerror}."
    try:
        group = grp.getgrnam("tty").gr_gid
        if os.fstat(theirs).st_gid != group:
            return f"sshd can give no terminal here: /dev/pts is mounted without gid={group}."
    except KeyError:
        pass  # then it takes the user's own
    finally:
        os.close(ours)
        os.close(theirs)
    return ""


def lay(job: Path, port: int, token: str, shell: str, home: str) -> Path:
    """Writes all that the server of a job needs; returns the script that runs it.

    Args:
        job: The job's folder.
        token: What its keys are made from.
        shell: Of the sessions; the same as that of the commands.
        home: What "~" is for the job.

    Raises:
        OSError: The disk does not take it.
        ValueError: There is no token.
    """
    folder = job / FOLDER
    keys = (str(folder / KEY), str(folder / LETS_IN))
    settings = settings_of(f"127.0.0.1:{port}", *keys, user_name(), home)
    sftp = shutil.which("sftp-server", path=os.pathsep.join(SFTP))
    texts = {
        SETTINGS: settings + (f"Subsystem sftp {sftp}\n" if sftp else ""),
        ENTER: Path(entering.__file__).read_text(),
        START: _start(folder, shell),
    }
    own_files(job, token, texts)
    if os.getuid() == 0:
        _OF_ROOT.mkdir(mode=0o755, exist_ok=True)
    return folder / START


def own_files(job: Path, token: str, texts: Mapping[str, str]) -> None:
    """Writes the files of a server, its keys among them, for its job's user alone.

    Raises:
        OSError: The disk does not take it.
        ValueError: There is no token.
    """
    folder = job / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    keys = {KEY: server_keys(token).private, LETS_IN: f"{person_keys(token).public}\n"}
    for name, text in {**keys, RC: BASHRC, **texts}.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(text)


def settings_of(listens: str, key: str, lets_in: str, user: str, home: str) -> str:
    """What a server is told that lets in one key.

    Args:
        key: File of its own key.
        lets_in: File of the key that it lets in.
        home: What "~" is in a session.
    """
    return "".join(
        f"{line}\n"
        for line in (
            f"ListenAddress {listens}",
            f"HostKey {_quoted(key)}",
            f"AuthorizedKeysFile {_quoted(lets_in, tokens=True)}",
            # What follows an @ would be a host; as a pattern, ? is any one character.
            f"AllowUsers {user.replace('@', '?')}",
            "AuthenticationMethods publickey",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "HostbasedAuthentication no",
            "PermitRootLogin prohibit-password",
            "PermitUserRC no",
            "PermitUserEnvironment no",
            "X11Forwarding no",
            "UsePAM no",
            "StrictModes no",  # above the folder lies what others may read, as in /tmp
            "PidFile none",
            "PrintMotd no",
            "PrintLastLog no",
            "LogLevel ERROR",
            f"SetEnv {_quoted(f'HOME={home}')}",
        )
    )


def _start(folder: Path, shell: str) -> str:
    """The script. Its own process is the one whose environment the sessions get."""
    enter = (sys.executable, "-I", "-S", str(folder / ENTER), shell, str(folder / RC))
    force = shlex.quote(f"ForceCommand=exec {shlex.join(enter)} ")
    # It does not start by a name that is not absolute.
    server = Path(shutil.which("sshd", path=_places()) or "sshd").absolute()
    words = (str(server), "-D", "-e", "-f", str(folder / SETTINGS))
    return f'{shlex.join(words)} -o {force}"$$"\nexit $?\n'


def _quoted(value: Path | str, tokens: bool = False) -> str:
    """A value of sshd's settings; in some, % begins what is put in."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text.replace("%", "%%") if tokens else text}"'


def _places() -> str:
    return os.pathsep.join((BESIDE, os.environ.get("PATH") or os.defpath))
