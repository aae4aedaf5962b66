"""A person with an account and terminals, for agents whose jobs are entered over SSH.

Where root runs the tests they are an ordinary person, and each of their commands has a mount
namespace with an entry for them among the accounts, and terminals as systemd mounts them. Jobs of
others have no capability there, so the Python of root's home lies where everybody gets to it.
"""

import grp
import os
import shutil
from pathlib import Path

from dstack_agent.executor.sshd import why_no_sshd
from support.person import PERSON, as_person

NAME = "entered"

_WITHIN = """mount --make-rprivate / &&
mount -t devpts -o newinstance,gid={tty},mode=620,ptmxmode=666 devpts /dev/pts &&
mount -t overlay overlay -o lowerdir={passage}:{home} {home} &&
mount -t overlay overlay -o lowerdir={etc}:/etc /etc && exec "$@\""""
"""A mount over the file itself would end when anybody else makes or removes a user."""


def missing() -> str:
    """What stands in the way of such a person here; empty if nothing does."""
    absent = [tool for tool in ("ssh", "ssh-keygen", "unshare") if shutil.which(tool) is None]
    return f"this needs {' and '.join(absent)}" if absent else why_no_sshd()


def as_person_with_account(folder: Path) -> tuple[str, ...]:
    """What a command line begins with to be run by the person; nothing if we are no root.

    Args:
        folder: For the list of accounts, and their home.
    """
    if os.getuid() != 0:
        return ()
    etc, passage = folder / "etc", folder / "passage"
    for each in (etc, passage):
        each.mkdir(mode=0o755)
    entry = f"{NAME}:*:{PERSON}:{PERSON}::{folder}:/bin/sh\n"
    (etc / "passwd").write_text(Path("/etc/passwd").read_text() + entry)
    (etc / "passwd").chmod(0o644)
    tty = grp.getgrnam("tty").gr_gid
    script = _WITHIN.format(tty=tty, etc=etc, passage=passage, home=Path.home())
    return ("unshare", "--mount", "sh", "-c", script, "sh", *as_person())
