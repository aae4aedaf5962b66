"""Files that are whole or absent, whenever the machine dies."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """Puts `content` at `path` in one step; on return it survives a power loss.

    A reader sees the old file or the new one. Concurrent writers do not mix; the last one wins.

    Args:
        sync: False for what may be lost with the power: nothing waits for the disk.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if not sync:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
