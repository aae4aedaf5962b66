"""An ordinary person: somebody who is not root, for tests that root may run."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

PERSON = 4321
"""Their user and group id, where root runs the tests."""


def as_person(*groups: int, may_read_all: bool = True) -> tuple[str, ...]:
    """What a command line begins with to be run by the person; nothing if we are no root.

    They may read what root may, because the Python of the tests may lie in root's home; they write
    only what is theirs.
    """
    if os.getuid() != 0:
        return ()
    caps = "-all,+dac_read_search" if may_read_all else "-all"
    others = ",".join(map(str, (PERSON, *groups)))
    return (
        *("setpriv", f"--reuid={PERSON}", f"--regid={PERSON}", f"--groups={others}"),
        *(f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}"),
    )


def without_rights() -> tuple[str, ...]:
    """What a command line begins with for a root that may read and write only what is its own."""
    if os.getuid() != 0:
        return ()
    rights = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}")


def person_id() -> int:
    """Their user id."""
    return PERSON if os.getuid() == 0 else os.getuid()


def give(folder: Path) -> Path:
    """Makes a folder and all below it theirs; returns it."""
    if os.getuid() == 0:
        subprocess.run(("chown", "-R", f"{PERSON}:{PERSON}", str(folder)), check=True)
    return folder


@contextlib.contextmanager
def persons_folder() -> Generator[Path]:
    """A folder of theirs that every program reaches: git asks what is allowed without the extra."""
    with tempfile.TemporaryDirectory(prefix="dstack-person-", ignore_cleanup_errors=True) as folder:
        yield give(Path(folder))
