"""Runs to drive in tests, and a watcher that remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from dstack_mesh.ids import Digest, RunId, RunName
from dstack_scheduler.job import LogFrame, Revision
from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import Plan, PlannedJob
from dstack_scheduler.progress import Progress
from dstack_scheduler.submission import Submission, Submitter, submission_of

CODE = Digest(b"c" * 32)
REPO = "github.com/lab/digits"
SUBMITTED = datetime(2026, 11, 20, 11, tzinfo=UTC)

E = TypeVar("E")


def planned(
    index: int, *commands: str, after: Sequence[int] = (), gpus: int = 0, name: str = ""
) -> PlannedJob:
    """A job of a plan that keeps a folder called like itself."""
    name = name or f"job-{index}"
    return PlannedJob(
        index=index,
        workflow=name,
        provider="bash",
        commands=commands,
        needs=Needs(gpus=gpus),
        artifacts=(f"{name}-out",),
        after=tuple(after),
    )


def submission(
    *jobs: PlannedJob, number: int = 1, placement: str = "", epoch: int = 1
) -> Submission:
    """A run of some jobs, the last one asked for."""
    by = Submitter("ana@laptop", SUBMITTED, CODE, Revision(repo=REPO), placement)
    plan = Plan(target=jobs[-1].workflow, jobs=jobs)
    name = RunName(f"calm-ibex-{number}")
    return replace(submission_of(plan, RunId(f"{number:026d}"), name, by), epoch=epoch)


@dataclass(slots=True)
class Remembering:
    """A watcher that keeps everything it saw."""

    seen: list[Progress] = field(default_factory=list[Progress])

    async def saw(self, event: Progress) -> None:
        self.seen.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of a kind, in order."""
        return [event for event in self.seen if isinstance(event, kind)]

    @property
    def log(self) -> bytes:
        """The bytes of all logs, as they came."""
        return b"".join(event.data for event in self.of(LogFrame))
