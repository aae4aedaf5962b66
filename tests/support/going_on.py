"""A `dstack` command that goes on while a test looks at it."""

import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from support.lab import DSTACK, Peer


@contextmanager
def going_on(
    peer: Peer, code: Path, *words: str
) -> Generator[tuple["subprocess.Popen[bytes]", Path]]:
    """The process, and the file that all it says goes to; it is ended with the block."""
    out = peer.home / f"out-{time.monotonic_ns()}"
    with out.open("wb") as file:
        process = peer.popen(
            (*DSTACK, *words), cwd=code, stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
    try:
        yield process, out
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
