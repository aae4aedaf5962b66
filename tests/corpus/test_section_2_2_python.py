"""Section 2.2 of the map, what providers of Python do: the version, what is installed, images."""

import pytest

from dstack_scheduler.images import own_image
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, project_of

PYTHON = "provider: python\nfile: train.py\n"
BASH = "provider: bash\ncommands: [a]\n"


def test_2_2_2_python_installs_then_prepares_then_runs_the_script() -> None:
    job = job_of(
        f"{PYTHON}args: --lr 1\nrequirements: r.txt\nbefore_run: [nvidia-smi]\nversion: 3.8\n"
    )
    assert (job.python, job.installs) == ("3.8", ("-r r.txt",))
    assert job.commands == ("nvidia-smi", "python train.py --lr 1")


@pytest.mark.parametrize("workflow", [PYTHON, BASH])
def test_2_2_4_installs_that_setup_begins_with_are_kept_for_the_next_job(workflow: str) -> None:
    job = job_of(f"{workflow}setup: [pip install torch, make, pip install late]\n")
    assert job.installs == ("torch",)
    assert job.commands[:2] == ("make", "pip install late")


def test_2_2_2_an_environment_yml_is_a_file_of_requirements() -> None:
    assert job_of(f"{BASH}requirements: environment.yml\n").installs == ("-r environment.yml",)


def test_2_2_3_images_with_python_conda_and_cuda_go_by_name() -> None:
    for image in ("dstack/python:3.8", "dstack/conda", "dstack/cuda:3.11"):
        job = job_of(f"provider: docker\nimage: {image}\ncommands: [a]\n")
        assert own_image(job.image) is not None
    wrong = project_of("workflows: [{name: x, image: 'dstack/pyton:3.8', commands: [a]}]")
    assert codes_of(wrong, "x") == [Code.BAD_NAME]
