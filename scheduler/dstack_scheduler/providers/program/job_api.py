"""What `import dstack` is to a provider's program: classes that describe jobs; none of them acts.

A program derives from `Provider`, answers `create_jobs` and calls `run()`. That writes the jobs to
the file `DSTACK_JOBS_FILE`; whoever drives the run reads it once the program ended well, checks it
like a workflow file, and makes jobs of this run of it. Needs Python 3.8 and no package.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Gpu:
    """Cards of one job."""

    count: int = 1
    name: str | None = None
    memory: str | None = None


@dataclass
class Resources:
    """What a job needs, all minimums."""

    cpu: int | None = None
    memory: str | None = None
    gpu: Gpu | int | None = None
    shm_size: str | None = None
    interruptible: bool = False


@dataclass
class App:
    """An application of a job: its port among `$PORT_0` … and the path of its link."""

    port_index: int = 0
    app_name: str = ""
    url_path: str | None = None
    url_query_params: dict[str, str] | None = None


@dataclass
class Job:
    """A job to make. Without `image_name` it is a process; `previous_jobs` are done before it."""

    commands: list[str] = field(default_factory=lambda: [])
    image_name: str | None = None
    environment: dict[str, str] = field(default_factory=lambda: {})
    working_dir: str | None = None
    artifacts: list[str] = field(default_factory=lambda: [])
    resources: Resources | None = None
    port_count: int = 0
    ports: list[int] = field(default_factory=lambda: [])
    previous_jobs: list[Job] = field(default_factory=lambda: [])
    nodes: int = 1
    apps: list[App] = field(default_factory=lambda: [])
    name: str = ""


class Provider(ABC):
    """Reads the workflow, says which jobs it is, and hands them over."""

    def __init__(self, name: str = "") -> None:
        self.name = name or os.environ.get("DSTACK_PROVIDER", "")
        self.workflow: dict[str, Any] = {}
        self.args: list[str] = []

    def load(self) -> None:
        """Reads `workflow.yaml`: the keys of the workflow and what is known of the run."""
        lines = Path("workflow.yaml").read_text(encoding="utf-8").splitlines()
        self.workflow = json.loads("{" + ",".join(line for line in lines if line) + "}")
        self.args = list(self.workflow["provider_args"])
        self.parse_args(self.args)

    def parse_args(self, args: list[str]) -> None:  # noqa: B027 (most programs take none)
        """Takes what was typed after the provider's or workflow's name; by default nothing."""

    @abstractmethod
    def create_jobs(self) -> list[Job]:
        """The jobs of the workflow."""

    def run(self) -> None:
        """Loads the workflow and writes its jobs."""
        self.load()
        write_jobs(self.create_jobs())

    start = run


def write_jobs(jobs: list[Job]) -> None:
    """Writes jobs where the run's driver reads them; jobs that others need need no mention."""
    found: list[Job] = []

    def add(job: Job) -> None:
        if any(job is one for one in found):
            return
        for before in job.previous_jobs:
            add(before)
        found.append(job)

    for job in jobs:
        add(job)
    names = {id(job): job.name or f"job-{number}" for number, job in enumerate(found)}
    workflows = [_workflow(job, names) for job in found]
    Path(os.environ["DSTACK_JOBS_FILE"]).write_text(
        json.dumps({"workflows": workflows}, indent=1), encoding="utf-8"
    )
    print(f"{len(workflows)} jobs made", file=sys.stderr)


def _workflow(job: Job, names: dict[int, str]) -> dict[str, Any]:
    if job.apps:
        print("links of applications are not made of a Job's apps yet", file=sys.stderr)
    said: dict[str, Any] = {
        "name": names[id(job)],
        "provider": "docker" if job.image_name else "bash",
        "image": job.image_name,
        "commands": job.commands,
        "env": dict(job.environment),
        "working_dir": job.working_dir,
        "artifacts": job.artifacts,
        "depends-on": [names[id(before)] for before in job.previous_jobs],
        "resources": _resources(job.resources),
        "ports": job.ports or job.port_count,
        "nodes": job.nodes if job.nodes > 1 else None,
    }
    return {key: value for key, value in said.items() if value}


def _resources(wanted: Resources | None) -> dict[str, Any]:
    if wanted is None:
        return {}
    gpu = Gpu(wanted.gpu) if isinstance(wanted.gpu, int) and wanted.gpu else wanted.gpu
    said: dict[str, Any] = {
        "cpu": wanted.cpu,
        "memory": wanted.memory,
        "gpu": {key: value for key, value in vars(gpu).items() if value} if gpu else None,
        "shm_size": wanted.shm_size,
        "interruptible": wanted.interruptible,
    }
    return {key: value for key, value in said.items() if value}
