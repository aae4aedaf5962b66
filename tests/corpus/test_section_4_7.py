"""Section 4.7 of the map: what a job is told, where it is a node or a provider's program."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dstack_agent.executor.nodes import node_names
from dstack_mesh.ids import RunId
from dstack_scheduler.job import Node
from dstack_scheduler.names import job_id
from dstack_scheduler.workflow.document import SourceFile
from dstack_scheduler.workflow.project import read_project
from support.submissions import planned, submission
from support.workflow_files import plan_of

PROVIDERS = "providers:\n- {name: sweep, commands: [python sweep.py]}\n"
WORKFLOWS = """workflows:
- {name: grid, provider: sweep, values: [$lr, 2], artifacts: [out], resources: {gpu: 4}}
"""
PROGRAM = """import json, os
from dstack import Job, Provider

class Sweep(Provider):
    def create_jobs(self):
        told = {name: value for name, value in os.environ.items() if "DSTACK" in name}
        told |= {"REPO_PATH": os.environ["REPO_PATH"], "cwd": os.getcwd(), "args": self.args}
        print(json.dumps(told | {"workflow": self.workflow}))
        return [Job(["true"])]

Sweep().run()
"""


def node(rank: int) -> dict[str, str]:
    spec = submission(planned(0, "true")).jobs[0].spec
    key = replace(spec.key, job=4 + rank)
    return node_names(replace(spec, key=key, node=Node(rank, 2, "10.0.0.7:29500")), gpus=8)


def test_4_7_4_every_node_but_the_first_is_told_of_the_first_by_all_its_old_names() -> None:
    worker, first = node(1), job_id(RunId(f"{1:026d}"), 4)
    for name in ("MASTER_ID", "MASTER_JOB_ID"):
        assert worker[name] == first
    for name in ("MASTER_HOSTNAME", "MASTER_JOB_HOSTNAME", "MASTER_JOB_HOST_NAME"):
        assert worker[name] == "10.0.0.7"
    for name in ("MASTER_PORT_0", "MASTER_JOB_PORT_0", "MASTER_JOB_PORT_29500"):
        assert worker[name] == "29500"
    both = {"MASTER_ADDR", "MASTER_PORT"}
    assert {name for name in node(0) if name.startswith("MASTER_")} == both


def test_4_7_8_a_provider_s_program_is_given_the_workflow_and_a_file_for_jobs(
    tmp_path: Path,
) -> None:
    """There is no server: what it was called through is a file, and no token is told."""
    project = read_project(
        [SourceFile("workflows.yaml", WORKFLOWS.encode())],
        [SourceFile("variables.yaml", b"variables: {grid: {lr: 0.1}}")],
        providers=[SourceFile("providers.yaml", PROVIDERS.encode())],
    )
    job = plan_of(project, "grid", "--deep", "3").jobs[-1]
    (tmp_path / "sweep.py").write_text(PROGRAM)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    seen = {"PATH": path, "RUN_NAME": "calm-ibex-1", "USER": "ana"}
    seen["TMPDIR"] = str(tmp_path / "tmp")
    script = "\n".join(("set -e", *job.commands))
    shell = ("bash", "-c", script)
    ran = subprocess.run(shell, cwd=tmp_path, env=seen, capture_output=True, check=True)

    told = json.loads(ran.stdout)
    jobs = Path(told["DSTACK_JOBS_FILE"])
    assert told["REPO_PATH"] == told["cwd"] == str(tmp_path)
    assert told["DSTACK_PROVIDER"] == "sweep" and told["args"] == ["--deep", "3"]
    assert {name for name in told if "DSTACK" in name} == {"DSTACK_PROVIDER", "DSTACK_JOBS_FILE"}
    assert told["workflow"]["run_name"] == "calm-ibex-1"
    assert told["workflow"]["values"] == ["0.1", "2"]
    assert json.loads(jobs.read_text())["workflows"][0]["commands"] == ["true"]
