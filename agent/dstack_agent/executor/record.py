"""The files a shim leaves in a job's folder. Standard library only: the shim imports it.

`shim.json` says which process has the job; it is made once and before the job starts, so a job is
never started twice. `exit.json` says how the job ended; it is there whole or not at all. Its disk
space is taken before the job starts, so a full disk cannot keep it from being written.
"""

# Loading pathlib would double the time that a shim takes to start.
# ruff: noqa: PTH105, PTH108, PTH110, PTH123

import os

JOURNAL = "journal"
SHIM = "shim.json"
EXIT = "exit.json"
ERRORS = "shim.stderr"
ASKED = "asked-to-end"
LOG_CUT = "log-cut"
_EXIT_NEW = ".exit.json"
_EXIT_ROOM = 4096

STOPPED = "stopped"
ABORTED = "aborted"
TIME_LIMIT = "time-limit"
DISK_FULL = "disk-full"
OUT_OF_MEMORY = "out-of-memory"
COMMAND_NOT_FOUND = "command-not-found"
IMAGE_MISSING = "image-missing"
DOCKER_ERROR = "docker-error"
SHIM_LOST = "shim-lost"


def start_time(pid: int) -> int:
    """When a living process started, in ticks since boot; 0 if there is no such process.

    With the pid it names a process: pids are used again.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def boot_id() -> str:
    """Names this boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def shim_text(pid: int) -> str:
    """What `shim.json` holds for a process; pid 0 for a job that nobody may start any more."""
    started = start_time(pid) if pid else 0
    return f'{{"pid": {pid}, "start_time": {started}, "boot": "{boot_id()}"}}\n'


def claim(folder: str, pid: int) -> bool:
    """Whether the job is the caller's from now on: true for one caller only, ever."""
    new = f"{folder}/.shim-{os.getpid()}.json"
    write_durably(new, shim_text(pid).encode())
    try:
        os.link(new, f"{folder}/{SHIM}")
    except FileExistsError:
        return False
    finally:
        os.unlink(new)
    sync_folder(folder)
    return True


def reclaim(folder: str, pid: int) -> None:
    """Makes the job the caller's, who knows that its shim is dead and holds the folder's lock."""
    new = f"{folder}/.shim-{os.getpid()}.json"
    write_durably(new, shim_text(pid).encode())
    os.replace(new, f"{folder}/{SHIM}")


def note_request(folder: str, reason: str) -> None:
    """Notes that the job was asked to end, for a shim that takes over from a dead one."""
    write_durably(f"{folder}/{ASKED}", reason.encode())


def noted_request(folder: str) -> str:
    """What was asked for: STOPPED or ABORTED, empty for nothing."""
    try:
        with open(f"{folder}/{ASKED}", encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def note_cut(folder: str, limit_bytes: int) -> None:
    """Notes that the log reached its limit: what follows of it is not kept."""
    write_durably(f"{folder}/{LOG_CUT}", str(limit_bytes).encode())


def noted_cut(folder: str) -> int:
    """The limit that the log reached; 0 if it did not."""
    try:
        with open(f"{folder}/{LOG_CUT}", encoding="ascii") as file:
            return int(file.read() or "0")
    except FileNotFoundError:
        return 0


def make_room(folder: str) -> None:
    """Takes the disk space that `write_exit` needs. Raises OSError if there is none."""
    descriptor = os.open(f"{folder}/{_EXIT_NEW}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _EXIT_ROOM)
    finally:
        os.close(descriptor)


def write_exit(folder: str, fields: dict[str, object]) -> None:
    """Writes how the job ended; the first writer wins."""
    import json  # costs 3 ms, which nobody waits for at the end

    new = f"{folder}/{_EXIT_NEW}"
    write_durably(new, json.dumps(fields).encode() + b"\n")
    if not os.path.exists(f"{folder}/{EXIT}"):
        os.replace(new, f"{folder}/{EXIT}")
    sync_folder(folder)


def write_durably(path: str, data: bytes) -> None:
    """Writes over what is there, cuts it to length, and returns once it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str) -> None:
    """Makes names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
