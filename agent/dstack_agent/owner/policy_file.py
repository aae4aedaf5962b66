"""The file of the owner's policy: read again when it changed, and never lost to a mistake in it."""

import logging
from pathlib import Path

from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_scheduler.policy import Policy

log = logging.getLogger(__name__)

GONE_SECONDS = 2.0
"""A file that is missing for shorter is being replaced by an editor."""


@frozen
class InForce:
    """What holds now.

    Attributes:
        text: Of the file when it was last good; empty without one.
        problem: What is wrong with the file as it is now; empty if nothing is.
    """

    policy: Policy
    text: str = ""
    problem: str = ""


@frozen
class _Stamp:
    """By what a changed file is told: an editor replaces it, an echo only makes it longer."""

    inode: int
    size: int
    changed_ns: int


class PolicyFile:
    """The file and what holds of it. `load` and `look` block; they are called one at a time.

    Args:
        path: Of the file; nothing there is no rule.
        start: What holds where the file says nothing.
    """

    def __init__(self, path: Path, start: Policy) -> None:
        self.path = path
        self._start = start
        self._stamp: _Stamp | None = None
        self._missed: float | None = None
        self._now = InForce(start)

    @property
    def in_force(self) -> InForce:
        """What holds since the last look."""
        return self._now

    def load(self) -> None:
        """The first reading. Raises PolicyBroken: an agent does not start with half a policy."""
        self._stamp = _stamp(self.path)
        if self._stamp is not None:
            self._now = self._read()

    def look(self, elapsed: float) -> None:
        """Reads the file again if it changed. A mistake in it changes nothing but `problem`.

        Args:
            elapsed: Tells how much time has passed between looks.
        """
        stamp = _stamp(self.path)
        if stamp is None:
            self._miss(elapsed)
            return
        self._missed = None
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._now = self._read()
            log.warning("%s was read again and holds from now on", self.path)
        except Invalid as broken:
            self._now = InForce(self._now.policy, self._now.text, broken.why)
            log.error("%s The policy of before holds on. %s", broken, broken.hint)

    def _miss(self, now: float) -> None:
        self._missed = now if self._missed is None else self._missed
        if self._stamp is not None and now - self._missed >= GONE_SECONDS:
            log.warning("%s is gone: everything is allowed", self.path)
            self._stamp, self._now = None, InForce(self._start)

    def _read(self) -> InForce:
        # Most homes have no such file, and the parser takes 20 ms to load.
        from dstack_agent.owner.policy_text import parse_policy

        data = read_bytes(self.path)
        return InForce(parse_policy(self.path, data, self._start), data.decode())


def read_bytes(path: Path) -> bytes:
    """What the file holds. Raises PolicyBroken if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        from dstack_agent.owner.policy_text import PolicyBroken
        from dstack_scheduler.workflow.problem import Code, Problem

        said = error.strerror or str(error)
        hint = f"chmod u+r {path}" if isinstance(error, PermissionError) else ""
        problem = Problem(str(path), 1, 1, "", "", Code.UNREADABLE, f"{said}.", hint)
        raise PolicyBroken(path, [problem]) from error


def check(path: Path) -> Policy:
    """The policy in a file, for a command. Raises PolicyBroken, or Invalid if nothing is there."""
    from dstack_agent.owner.policy_text import parse_policy

    if not path.exists():
        raise Invalid(f"There is no {path}.", hint="name the file: --check FILE", code="policy")
    return parse_policy(path, read_bytes(path), Policy())


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return _Stamp(0, 0, 0)
    return _Stamp(found.st_ino, found.st_size, max(found.st_mtime_ns, found.st_ctime_ns))
