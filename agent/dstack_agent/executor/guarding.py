"""What a container may never have of the machine, by whatever path it is named."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dstack_agent.executor.container import Mount
from dstack_mesh.faults import Refused


def guard(mounts: Iterable[Mount], folder: Path, shut: Sequence[Path]) -> None:
    """Refuses a mount that is not the job's own, once every link is followed.

    Args:
        folder: The job's; all that it mounts lies below it.
        shut: The agent's own folders and the engine's socket. Nothing of them, and nothing that
            has one of them inside, is mounted; compared by what it is and not only by its name.

    Raises:
        Refused: For the first such mount.
    """
    own = folder.resolve()
    closed = {_file(path) for path in shut} | {_file(above) for path in shut for above in _up(path)}
    for mount in mounts:
        source = mount.source.resolve()
        if not source.is_relative_to(own) or source == own:
            raise _refusal(mount, f"it leads to {source}")
        if (found := _file(source)) is not None and found in closed:
            raise _refusal(mount, f"{source} belongs to the machine")


def _up(path: Path) -> Iterable[Path]:
    return path.resolve().parents


def _file(path: Path) -> tuple[int, int] | None:
    """What is at a path, whatever it is called; None if nothing is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refusal(mount: Mount, why: str) -> Refused:
    return Refused(
        f"The container may not have {mount.target}.",
        f"Of the machine a container gets the job's own folders alone, and {why}.",
        "Use a path of its own, without links out of it.",
        "mount-not-allowed",
    )
