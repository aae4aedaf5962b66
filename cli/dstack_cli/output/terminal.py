"""What the streams of this process are: terminals or not, colours or not, how wide."""

import os
import sys
from collections.abc import Mapping

from dstack_mesh.frozen import frozen


@frozen
class Terminal:
    """Facts about where output goes.

    Attributes:
        stdout: Standard output is a terminal.
        stderr: Standard error is a terminal that can redraw a line.
        stdin: Somebody can press keys.
        colour: Our own words may be coloured.
        width: Columns of standard output; None where it is no terminal.
    """

    stdout: bool
    stderr: bool
    stdin: bool
    colour: bool
    width: int | None

    @classmethod
    def of_process(cls) -> "Terminal":
        """The facts of this process."""
        dumb = os.environ.get("TERM") == "dumb"
        stdout, stderr = _is_terminal(sys.stdout), _is_terminal(sys.stderr)
        return cls(
            stdout=stdout,
            stderr=stderr and not dumb,
            stdin=_is_terminal(sys.stdin),
            colour=colour_wanted(os.environ, stderr),
            width=_width() if stdout else None,
        )


def colour_wanted(environment: Mapping[str, str], is_terminal: bool) -> bool:
    """Whether to colour: NO_COLOR wins, then FORCE_COLOR, then what the stream is."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return is_terminal and environment.get("TERM") != "dumb"


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty())


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80
