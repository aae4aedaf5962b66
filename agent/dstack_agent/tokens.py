"""What opens a job's apps: made from a key of this home, so that it need not be kept anywhere.

The job gets it as it gets its secrets, and whoever submitted the job when they ask. It is in no
record and no file; who has it can open what the job serves and nothing else.
"""

import hmac
import os
import threading
from pathlib import Path

from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home
from dstack_scheduler.job import JobKey

KEY = "apps.key"
"""In the folder of keys."""

_KEY_BYTES = 32
_PURPOSE = b"dstack-mesh/1/app"


class Tokens:
    """Makes the tokens of one home. Its key is made when the first one is asked for."""

    def __init__(self, home: Home) -> None:
        self._path = home.keys / KEY
        self._key = b""
        self._making = threading.Lock()

    def of(self, key: JobKey) -> str:
        """The token of an attempt: 32 hexadecimal digits, the same at each call. Blocks."""
        with self._making:  # of two first ones at once both would make a key
            self._key = self._key or _read(self._path)
        attempt = f"{key.run_id}.{key.job}.{key.attempt}".encode()
        return hmac.digest(self._key, _PURPOSE + b"\0" + attempt, "sha256").hex()[:32]


def _read(path: Path) -> bytes:
    try:
        held = path.read_bytes()
    except FileNotFoundError:
        held = b""
    if len(held) != _KEY_BYTES:
        held = os.urandom(_KEY_BYTES)
        write_durably(path, held)
    return held
