"""Walls that a process puts around itself for good. Standard library only: the shim imports it.

What is walled is the contents of files and every change of them; that a file is there and what it
is called can be seen still. Beyond the walls no process can be traced, nor signalled or reached by
an abstract Unix socket where the kernel is of 6.12 or later; for sockets that have a path there are
masks. No capability is kept, and root stays the owner of what belongs to root.
Source: Documentation/userspace-api/landlock.rst of the kernel.
"""

import ctypes
import os
import stat
import struct

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = 64

_WRITE_FILE, _READ_FILE = 1 << 1, 1 << 2
_CHANGES = sum(1 << bit for bit in range(4, 13))
"""Making and removing names of every kind."""
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """What the kernel offers: 0 for nothing."""
    found = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    return max(int(found), 0)


def restrict(writable: "list[str]", readable: "list[str]") -> None:
    """Leaves this process and all that it starts no files but those at and below some paths.

    Paths that are gone do not matter. Where the kernel has no Landlock nothing is walled.

    Raises:
        OSError: The kernel refuses.
    """
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for number in range(_CAPABILITIES):  # the kernel has fewer, and who has none may drop none
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    if offered := version():
        _wall(offered, writable, readable)
    _check(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)))


def _wall(offered: int, writable: "list[str]", readable: "list[str]") -> None:
    changes = _CHANGES | (_REFER if offered >= 2 else 0) | (_TRUNCATE if offered >= 3 else 0)
    everything = _READ_FILE | _WRITE_FILE | changes
    scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if offered >= 6 else 0
    attributes = struct.pack("=QQQ", everything, 0, scoped)[: 24 if offered >= 6 else 8]
    rules = _check(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for rights, paths in ((everything, writable), (_READ_FILE, readable)):
            for path in paths:
                _allow(rules, path, rights)
        _check(_libc.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        mode = os.fstat(beneath).st_mode
        if stat.S_ISLNK(mode):  # what it leads to has a rule of its own
            return
        kept = rights if stat.S_ISDIR(mode) else rights & _OF_A_FILE
        rule = struct.pack("=Qi", kept, beneath)
        _check(_libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0))
    finally:
        os.close(beneath)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
