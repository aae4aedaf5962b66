"""What `dstack exec` asks an agent for: a command beside a job that runs."""

from dstack_mesh.frozen import frozen

MOST_CHARACTERS = 64 * 1024
"""Of a command, all its words together."""

STDIN, STDOUT, STDERR = 0, 1, 2
"""Numbers of its streams on the way."""


@frozen
class Window:
    """The size of a terminal."""

    rows: int = 24
    columns: int = 80


@frozen
class Errand:
    """A command.

    Attributes:
        words: Program and arguments; empty for a shell.
        terminal: The kind of terminal that it gets, as TERM has it; empty for none.
    """

    words: tuple[str, ...] = ()
    terminal: str = ""
    window: Window = Window()


@frozen
class Outcome:
    """How it ended.

    Attributes:
        exit_code: Its own; 128+n for signal n.
        why: A sentence about a command that did not start, or that we ended.
    """

    exit_code: int
    why: str = ""
