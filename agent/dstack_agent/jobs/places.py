"""Where the files of an attempt lie on this machine.

A path of a workflow is relative to the job's working directory, below "~/", or absolute. A process
sees the machine's own paths, so an absolute one must lie where the machine's owner allows it, the
working directory too. A container sees its own: what it has at an absolute path lies below the
job's folder here.
"""

import os
from pathlib import Path, PurePosixPath

from dstack_mesh.faults import Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import RunId
from dstack_scheduler.job import JobKey
from dstack_scheduler.job_paths import named


def folder_of(jobs: Path, key: JobKey) -> Path:
    """The folder of an attempt below the folder of all jobs."""
    return jobs / str(key)


def key_of(folder: Path) -> JobKey | None:
    """The attempt whose folder this is; None if it is no such folder."""
    parts = folder.name.split(".")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    return JobKey(RunId(parts[0]), int(parts[1]), int(parts[2]))


@frozen
class Place:
    """Where a path lies.

    Attributes:
        within: A folder above it that no job can replace by a link.
    """

    path: Path
    within: Path


@frozen
class Places:
    """Where the paths of one job lie.

    Attributes:
        work: Root of the code.
        working_dir: Of the job, relative to `work` or absolute.
        home: What "~" is on this machine.
        outside: Absolute paths of a container lie below it; None for a process.
        allowed: Where a process may have absolute paths.
        own_home: Whether `home` is the job's alone, made for it.
        closed: The agent's own folder, where no job's files may lie; None if there is none.
    """

    work: Path
    working_dir: str
    home: Path
    outside: Path | None = None
    allowed: tuple[Path, ...] = ()
    closed: Path | None = None
    own_home: bool = False

    @property
    def start(self) -> Path:
        """The job's working directory. Raises Refused if it may not start there."""
        if not self.working_dir.startswith("/"):
            return self.work / self.working_dir
        path = PurePosixPath(os.path.normpath(self.working_dir))
        if self.outside is not None:
            return self.outside / path.relative_to(path.anchor)
        start = Path(path)
        if not any(start.is_relative_to(allowed) for allowed in self.allowed):
            allowed = " or ".join(f"{each} and below" for each in self.allowed)
            raise self._no_start(f"Absolute ones may be {allowed or 'in containers alone'}.")
        if self.closed is not None and start.is_relative_to(self.closed):
            raise self._no_start(f"The agent keeps its own files in {self.closed}.")
        return start

    def _no_start(self, why: str) -> Refused:
        return Refused(
            f"A process may not start in {self.working_dir} on this machine.",
            why,
            "Name a folder of the project, as src, or run it in a container with `image:`.",
            "path-not-allowed",
        )

    def of(self, path: str) -> Place:
        """Where a path of the workflow lies. Raises Refused if it must not be touched."""
        path = named(path, self.working_dir)
        if path == "~" or path.startswith("~/"):
            place = Place(self.home / _inside(path[2:], path), self.outside or self.home)
            return place if self.outside or self.own_home else self._open(place)
        if path.startswith("/"):
            return self._absolute(PurePosixPath("/" + os.path.normpath(path).lstrip("/")))
        return Place(self.work / _inside(f"{self.working_dir}/{path}", path), self.work)

    def _absolute(self, path: PurePosixPath) -> Place:
        if self.outside is not None:
            return Place(self.outside / path.relative_to("/"), self.outside)
        for allowed in self.allowed:
            if path.is_relative_to(allowed):
                return self._open(Place(Path(path), allowed))
        raise Refused(
            f"The path {path} is not allowed for a process on this machine.",
            f"Allowed are {', '.join(map(str, self.allowed)) or 'no absolute paths'}.",
            "Use a path relative to the working directory, or run it in a container with `image:`.",
            "path-not-allowed",
        )

    def _open(self, place: Place) -> Place:
        """The place, unless it is in the agent's folder, which has its key, or has it inside."""
        closed = self.closed
        if closed and (place.path.is_relative_to(closed) or closed.is_relative_to(place.path)):
            raise Refused(
                f"The path {place.path} is not allowed.",
                f"The agent keeps its own files in {closed}.",
                "Use a path relative to the working directory.",
                "path-not-allowed",
            )
        return place


def _inside(path: str, shown: str) -> str:
    """The path without dots. Raises Refused if it leads out of where it starts."""
    normal = os.path.normpath(path.lstrip("/") or ".")
    if normal == ".." or normal.startswith("../"):
        raise Refused(
            f"The path {shown} leads out of the job's folder.",
            hint="Remove the `..` from it.",
            code="path-not-allowed",
        )
    return "" if normal == "." else normal
