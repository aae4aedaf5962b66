"""The environment variables of a job.

Later ones win: the base of the executor; what the run is called; `env` of the workflow, names as
written; its variables, names in upper case with `_` for what no name may hold; the cards. Secrets
are added by the executor at the very end. A variable never replaces a name of the base (one called
`path` must not take away PATH), and nothing replaces the cards: they say what the job was granted.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dstack_agent.executor import pythons
from dstack_agent.executor.nodes import node_names
from dstack_agent.executor.virtualenv import is_conda, layer_of
from dstack_mesh.faults import Refused
from dstack_mesh.machine import ExecutorKind, Gpu
from dstack_mesh.user import user_home, user_name
from dstack_scheduler.job import JobSpec
from dstack_scheduler.names import job_id

CONTAINER_HOME = "/home/dstack"
"""What "~" is in a container."""

VIRTUAL_ENVIRONMENT = "venv"
"""Folder of a job for its Python and what it installs."""

HOME = "home"
"""Folder of a job that is its home, where it may not have the person's."""

APP_HOST = "DSTACK_APP_HOST"
"""Tells a job with ports which address its apps listen on."""

TMP = "tmp"
"""Folder of a job for its temporary files."""

_PASSED_ON = re.compile(
    r"LANG|LC_\w+|TZ|SHELL|LD_LIBRARY_PATH|SSL_CERT_(FILE|DIR)|(HTTP|HTTPS|NO|ALL|FTP)_PROXY",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a job runs.

    Attributes:
        agent: Name of the agent.
        address: Host under which other machines reach it.
        ports: Ports that the job may listen on.
        listen_on: Address that what it serves listens on, for its own machine alone to reach.
    """

    agent: str
    address: str
    ports: tuple[int, ...] = ()
    listen_on: str = "127.0.0.1"


def environment_of(
    spec: JobSpec, gpus: Sequence[Gpu], site: Site, folder: Path, ambient: Mapping[str, str]
) -> dict[str, str]:
    """All that a job sees but for secrets.

    Args:
        folder: The job's folder.
        ambient: The agent's own environment; little of it is passed on, and none to containers.

    Raises:
        Refused: The Python that the job asks for is not here.
    """
    base = (
        process_base(spec, folder, ambient)
        if spec.executor is ExecutorKind.PROCESS
        else container_base()
    )
    named = base | _names(spec, len(gpus), site) | node_names(spec, len(gpus))
    variables = {_variable(name): value for name, value in spec.variables.items()}
    kept = {name: value for name, value in variables.items() if name not in named}
    return named | dict(spec.env) | kept | _cards(gpus)


def process_base(spec: JobSpec, folder: Path, ambient: Mapping[str, str]) -> dict[str, str]:
    """The clean base of a process: no agents of SSH or GPG, no credentials of the daemon.

    `python` and `pip` are those of a virtual environment of the job's own; the executor makes it.
    """
    user = user_name()
    python_of(spec, ambient)
    environment = folder / VIRTUAL_ENVIRONMENT
    own = Path(sys.executable).parent
    layer = layer_of(environment)
    conda = layer if layer is not None and is_conda(layer) else None
    below = (str(conda / "bin"),) if conda else ()
    search = (str(environment / "bin"), *below, str(own), ambient.get("PATH") or os.defpath)
    passed = {name: value for name, value in ambient.items() if _PASSED_ON.fullmatch(name)}
    return {
        "LANG": "C.UTF-8",
        **passed,
        "PATH": os.pathsep.join(search),
        "VIRTUAL_ENV": str(environment),
        **({"CONDA_PREFIX": str(conda)} if conda else {}),
        "HOME": ambient.get("HOME") or str(user_home() or folder),
        "USER": user,
        "LOGNAME": user,
        "TMPDIR": str(folder / TMP),
        "PYTHONUNBUFFERED": "1",
    }


def container_base() -> dict[str, str]:
    """The base of a container, on top of what the image sets."""
    return {
        "LANG": "C.UTF-8",
        "HOME": CONTAINER_HOME,
        "USER": "dstack",
        "LOGNAME": "dstack",
        "PYTHONUNBUFFERED": "1",
    }


def python_of(spec: JobSpec, ambient: Mapping[str, str]) -> pythons.Interpreter:
    """The interpreter that a job asked for, or the agent's own. Raises Refused."""
    wanted = spec.python
    found = pythons.find(wanted, ambient) if wanted else pythons.own()
    if found is None:
        raise Refused(
            f"Python {wanted} is not on this machine.",
            f"There is {', '.join(pythons.available(ambient))}.",
            pythons.how_to_get(wanted),
            "no-python",
        )
    return found


def _names(spec: JobSpec, gpus: int, site: Site) -> dict[str, str]:
    job = job_id(spec.key.run_id, spec.key.job)
    return {
        "RUN_NAME": spec.run_name,
        "JOB_ID": job,
        "JOB_HOSTNAME": site.address,
        "HOSTNAME": site.address,
        "DSTACK_RUN_NAME": spec.run_name,
        "DSTACK_RUN_ID": spec.key.run_id,
        "DSTACK_JOB_ID": job,
        "DSTACK_ATTEMPT": str(spec.key.attempt),
        "DSTACK_WORKFLOW": spec.workflow,
        "DSTACK_AGENT": site.agent,
        "DSTACK_GPUS_NUM": str(gpus),
        **({APP_HOST: site.listen_on} if site.ports else {}),
        **{f"PORT_{index}": str(port) for index, port in enumerate(site.ports)},
        **{f"JOB_PORT_{index}": str(port) for index, port in enumerate(site.ports)},
    }


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII).upper()


def _cards(gpus: Sequence[Gpu]) -> dict[str, str]:
    real = [gpu.uuid for gpu in gpus if not gpu.simulated]
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus),
        "NVIDIA_VISIBLE_DEVICES": ",".join(real) or "void",
    }
