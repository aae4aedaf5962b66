"""Jobs for executors: ready launches, and what a job wrote."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dstack_agent.executor import vault
from dstack_agent.executor.port import Launch
from dstack_agent.executor.record import JOURNAL, SHIM
from dstack_agent.executor.watching import read_shim
from dstack_agent.logs.journal import Frame, JournalReader
from dstack_mesh.ids import Digest, RunId, RunName
from dstack_scheduler.job import JobKey, JobSpec, LogStream
from dstack_scheduler.needs import Needs

PATH = "/usr/local/bin:/usr/bin:/bin"


def spec_of(*commands: str, **changes: Any) -> JobSpec:
    """A job with these commands."""
    fields: dict[str, Any] = {
        "key": JobKey(RunId("01run"), 0),
        "run_name": RunName("lazy-bobcat-1"),
        "workflow": "train",
        "provider": "bash",
        "commands": commands,
        "needs": Needs(),
        "code_digest": Digest(bytes(32)),
        "submitted_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return JobSpec(**(fields | changes))


def launch_of(folder: Path, spec: JobSpec, **changes: Any) -> Launch:
    """A launch in a folder that is made, with an empty work directory."""
    work = folder / "work"
    work.mkdir(parents=True)
    fields: dict[str, Any] = {"folder": folder, "work": work, "spec": spec, "env": {"PATH": PATH}}
    return Launch(**(fields | changes))


def written(folder: Path) -> tuple[bytes, bytes]:
    """All of stdout and all of stderr in the journal of a job."""
    reader = JournalReader(folder / JOURNAL)
    frames = [each for each in reader.read(limit=1 << 40) if isinstance(each, Frame)]
    reader.close()
    stdout, stderr = (
        b"".join(frame.data for frame in frames if frame.stream is stream) for stream in LogStream
    )
    return stdout, stderr


def has_memory() -> bool:
    """Whether secrets of processes can be files on this machine."""
    return bool(vault.place("/any"))


def has_vault(folder: Path) -> bool:
    """Whether secrets of a job are in memory beside it."""
    place = vault.place(str(folder))
    return bool(place) and Path(place).exists()


def shim_pid(folder: Path) -> int:
    """The process that has the job."""
    shim = read_shim(folder)
    assert shim is not None, f"no {SHIM} in {folder}"
    return shim.pid
