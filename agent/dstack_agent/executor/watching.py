"""Whether the shim of a job lives, how to wait for its end, what it recorded."""

import asyncio
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from dstack_agent.executor import record
from dstack_agent.executor.port import Ended
from dstack_mesh.faults import Damaged


@dataclass(frozen=True, slots=True)
class Shim:
    """The process that has a job. `pid` 0: nobody started it and nobody may any more."""

    pid: int
    start_time: int
    boot: str

    @property
    def of_this_boot(self) -> bool:
        return self.boot == record.boot_id()

    def open(self) -> int | None:
        """A descriptor of the living process; None if it is gone."""
        if not self.pid or not self.of_this_boot:
            return None
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # Looked at after the descriptor is open: now the pid cannot pass to another process.
        if record.start_time(self.pid) != self.start_time:
            os.close(descriptor)
            return None
        return descriptor


def find_shim(folder: Path) -> Shim:
    """Who has the job. Where nobody ever had it, makes sure that nobody ever will."""
    found = read_shim(folder)
    if found is None:
        record.claim(str(folder), 0)
        found = read_shim(folder)
    assert found is not None
    return found


def read_shim(folder: Path) -> Shim | None:
    """Who has the job; None if nobody has it yet.

    Raises:
        Damaged: The record cannot be read.
    """
    try:
        fields = json.loads((folder / record.SHIM).read_bytes())
        return Shim(int(fields["pid"]), int(fields["start_time"]), str(fields["boot"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        raise Damaged(f"{folder / record.SHIM} cannot be read.", str(error)) from error


def read_exit(folder: Path) -> Ended | None:
    """How the job ended; None if nothing was recorded.

    Raises:
        Damaged: The record cannot be read.
    """
    try:
        fields = json.loads((folder / record.EXIT).read_bytes())
        return Ended(fields["exit_code"], str(fields["reason"]), str(fields["cause"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        raise Damaged(f"{folder / record.EXIT} cannot be read.", str(error)) from error


def write_lost(folder: Path, cause: str) -> Ended:
    """Records that nobody knows how the job ended, unless somebody does."""
    ended = Ended(None, record.SHIM_LOST, cause)
    record.write_exit(
        str(folder), {"exit_code": None, "reason": ended.reason, "cause": ended.cause}
    )
    return read_exit(folder) or ended


async def until_gone(shim: Shim) -> None:
    """Waits until the process ended."""
    descriptor = await asyncio.to_thread(shim.open)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def ask_to_end(folder: Path, abort: bool) -> None:
    """Signals the shim of a job, if it lives."""
    shim = read_shim(folder)
    descriptor = shim.open() if shim else None
    if descriptor is None:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGUSR1 if abort else signal.SIGTERM)
    except ProcessLookupError:  # it ended by itself
        return
    finally:
        os.close(descriptor)
