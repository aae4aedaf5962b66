"""Writes down every frame that crosses the bridge, and searches it for names.

`python -m support.capture FILE`, in the namespace of the bridge: until it is ended.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import netns
from support.eventually import eventually

_ALL = 0x0003
_ROOT = Path(__file__).parents[1]


@contextmanager
def captured(host: netns.Host, file: Path) -> Generator[Path]:
    """All that crosses the bridge of this machine while the block runs."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    command = ["ip", "netns", "exec", host.switch, sys.executable, "-m", "support.capture"]
    process: Any = subprocess.Popen([*command, str(file)], env=environment)
    try:
        eventually(file.exists, within=10)
        yield file
    finally:
        process.terminate()
        process.wait()


def forms(name: str) -> set[bytes]:
    """How a name may be written, in lower case where that has a meaning."""
    plain = name.lower().encode()
    written = {plain, plain.hex().encode(), name.encode().hex().encode()}
    written.add(name.lower().encode("utf-16-le"))
    for before in range(3):
        # What stands before a name moves its base64; letters at its ends hold bits of both.
        upto = before + len(name.encode())
        encoded = base64.b64encode(b"\0" * before + name.encode() + b"\0" * 2)
        written.add(encoded[-(-before * 8 // 6) : upto * 8 // 6].lower())
    return written


def seen(names: Iterable[str], captured: bytes) -> set[str]:
    """Those of the names that are in it."""
    lower = captured.lower()
    return {name for name in names if any(form in lower for form in forms(name))}


def _main(file: Path) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        with file.open("wb", buffering=0) as sink:
            while True:
                sink.write(raw.recv(1 << 17))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
