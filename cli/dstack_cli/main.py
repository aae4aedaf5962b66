"""`dstack`: from the command line to an exit code, trouble included."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code, or ends the process if it is the process's own.

    The one place where trouble becomes words: what a person can understand is told as it is,
    anything else is a bug of ours and says so; a traceback is printed only with DSTACK_DEBUG=1.
    """
    code = _told(list(sys.argv[1:] if argv is None else argv))
    if argv is None:
        _leave(code)
    return code


def _told(args: list[str]) -> int:
    try:
        return _invoke(args)
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        from dstack_cli.exit_codes import INTERRUPTED

        # A terminal has just shown "^C".
        print("\nInterrupted." if sys.stderr.isatty() else "Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from dstack_cli.trouble import report
        from dstack_mesh.trouble import innermost

        if isinstance(innermost(error), BrokenPipeError):
            return _reader_left()
        return report(error, args)


def _invoke(args: list[str]) -> int:
    if args[:1] == ["run"] and not {"-h", "--help"} & set(args):
        # Its words are not click's, and a run's first line should not wait for click to load.
        from dstack_cli.running import run_words

        return run_words(args[1:])
    from dstack_cli.tree import invoke

    return invoke(args)


def _reader_left() -> int:
    """Ends quietly when whoever read our output has gone (`dstack logs @ | head`)."""
    from dstack_cli.exit_codes import PIPE_CLOSED

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _leave(code: int) -> NoReturn:
    """Ends the process at once: all is closed by now, and taking gRPC apart takes 40 ms."""
    if "grpc" not in sys.modules:
        sys.exit(code)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = _reader_left()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
