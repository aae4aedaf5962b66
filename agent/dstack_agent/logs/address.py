"""Addresses of Unix sockets at paths of any length. Standard library only: the shim imports it."""

import os

_LONGEST = 100


def socket_address(path: str) -> tuple[str, int | None]:
    """An address for the path, and the folder's descriptor that keeps it valid while it is open.

    The kernel holds 107 bytes; a longer path is reached through the open folder.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        return path, None
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{descriptor}/{name}", descriptor
