"""Sections 1.4 and 4.6 of the map: environments as artifacts, at the paths they were made for.

They are used on another agent in `e2e/test_moved_environments.py`.
"""

from pathlib import Path

import pytest

from dstack_agent.executor.conda import hook, hook_of_image
from dstack_agent.jobs.places import Places
from dstack_mesh.faults import Refused
from support.conda_lab import make_conda
from support.workflow_files import job_of

BASH = "provider: bash\ncommands: [conda activate nlp]\n"


@pytest.mark.parametrize("path", ["/opt/conda/envs/nlp", "~/miniforge3/envs/nlp"])
def test_1_4_8_a_conda_environment_is_kept_under_the_path_that_was_written(path: str) -> None:
    assert job_of(f"{BASH}artifacts: [{{path: {path}}}]\n").artifacts == (path,)


def test_1_4_8_conda_activate_is_known_in_commands(tmp_path: Path) -> None:
    conda = make_conda(tmp_path / "conda")
    commands = job_of(BASH).commands
    assert "conda.sh" in hook(commands, {"HOME": "/nowhere", "CONDA_EXE": str(conda)})
    assert "/opt/conda" in hook_of_image(commands)


def test_4_6_4_an_absolute_path_is_itself_in_a_container_and_below_the_home_of_a_process(
    tmp_path: Path,
) -> None:
    work, home = tmp_path / "work", tmp_path / "ana"
    boxed = Places(work, "", home, outside=tmp_path / "outside")
    assert boxed.of("/opt/conda/envs/nlp").path == tmp_path / "outside/opt/conda/envs/nlp"
    process = Places(work, "", home, allowed=(home,))
    assert process.of(f"{home}/envs/nlp").path == home / "envs/nlp"
    with pytest.raises(Refused):
        process.of("/opt/conda/envs/nlp")
