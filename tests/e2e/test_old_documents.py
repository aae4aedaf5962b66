"""The examples of the five documents of the old system, as they stand there.

What cannot be had here is stood in for: MNIST's packages by small ones of the same names, whose
data set needs no internet; the image `tensorflow/tensorflow:latest-gpu` by one with Python; V100
cards by declared ones; conda and VS Code's server by programs that do what is asked of them here;
AWS by moto. Documents 001 and 003 have no file of their own: theirs are what their words say.
"""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.alone import alone
from support.conda_lab import make_conda
from support.docker_lab import DockerLab
from support.lab import DSTACK, Peer, project, said
from support.person import as_person, give, persons_folder
from support.s3_lab import S3Service

IMAGE = "tensorflow/tensorflow:latest-gpu"

MNIST = """
workflows:
  - name: mnist-data
    provider: bash
    commands:
      - pip install torchvision
      - python mnist/mnist_data.py
    artifacts:
      - path: ./data

  - name: train-mnist
    provider: bash
    deps:
      - workflow: mnist-data
    commands:
      - pip install torchvision pytorch-lightning tensorboard
      - python mnist/train_mnist.py
    artifacts:
      - path: ./lightning_logs
"""
MNIST_DATA = "import torchvision; open('data/digits', 'w').write(torchvision.DIGITS)"
TRAIN_MNIST = """import torchvision, pytorch_lightning, tensorboard
digits = open('data/digits').read()
assert digits == torchvision.DIGITS
open('lightning_logs/metrics', 'w').write(f'{len(digits)} digits')
"""

PYTHON = """
workflows:
  - name: prepare
    provider: python
    file: "prepare.py"
    artifacts: ["data"]

  - name: train
    depends-on:
      - prepare:latest
    provider: python
    file: "train.py"
    artifacts: ["checkpoint"]
    resources:
      gpu: 4

  - name: app
    depends-on:
      - train:latest
    provider: streamlit
    target: "app.py"
"""
TOUR = f"""
workflows:
  - name: prepare
    image: {IMAGE}
    commands:
      - python3 prepare.py
    artifacts:
      - data
    resources:
      v100/gpu: $gpu

  - name: train
    image: {IMAGE}
    commands:
      - python3 train.py
    artifacts:
      - checkpoint
    dependencies:
      - prepare:latest
    resources:
      v100/gpu: $gpu
"""
VARIABLES = """
variables:
  prepare:
    gpu: 1

  train:
    gpu: 1
"""
WORDS_OF_001 = f"""
workflows:
  - name: prepare
    image: {IMAGE}
    commands:
      - echo "$words" > data/words
    artifacts:
      - data

  - name: train
    image: {IMAGE}
    depends-on:
      - prepare
    commands:
      - cat data/words $rules > model/weights
    artifacts:
      - model
"""
VARIABLES_OF_001 = """
variables:
  global:
    rules: rules.txt
  prepare:
    words: lorem
"""
WORDS_OF_003 = """
workflows:
  - name: setup
    provider: bash
    commands:
      - conda env create -f environment.yml -p ./env
    artifacts:
      - path: ./env

  - name: train
    provider: bash
    deps:
      - workflow: setup
    commands:
      - conda activate ./env
      - python -c "import sys; print(sys.prefix)" > model/where
      - test "$(cat model/where)" = "$PWD/env"
    artifacts:
      - path: ./model
    resources:
      interruptible: true
"""
SERVER = """import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
os.makedirs("output", exist_ok=True)
open("output/note", "w").write("kept")
token = open(options["--connection-token-file"]).read()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if f"tkn={token}" in self.path else 403)
        self.end_headers()
        self.wfile.write(b"an editor")

HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""
PREPARE = "open('data/words', 'w').write('lorem')"
TRAIN = """import os, sys
words = open('data/words').read()
print(words, os.environ['DSTACK_GPUS_NUM'], *sys.argv[1:])
open('checkpoint/model', 'w').write(words.upper())
"""


@dataclass
class Desk:
    """A person alone, whose machine has four cards and an engine."""

    peer: Peer
    folder: Path

    def project(self, name: str, workflows: str, **files: str) -> Path:
        code = project(self.folder / name, workflows, **files)
        give(self.folder)
        return code

    def run(self, code: Path, *words: str) -> tuple[str, str]:
        """Runs something to its end; the run's name and what was printed."""
        ended = self.peer.dstack("run", *words, cwd=code, timeout=120, check=True)
        name = self.peer.json("ps", "-n", "1", "-a")["items"][0]["run"]
        return str(name), said(ended)

    def kept(self, reference: str, path: str) -> str:
        target = self.folder / "copied"
        target.unlink(missing_ok=True)
        self.peer.dstack("cp", reference, path, str(target), cwd=self.folder, check=True)
        return target.read_text()


@pytest.fixture(scope="module")
def desk(docker_lab: DockerLab, python_image: str) -> Iterator[Desk]:
    docker_lab.docker("tag", python_image, IMAGE)
    with (
        persons_folder() as folder,
        alone(folder, DOCKER_HOST=docker_lab.host, DSTACK_GPUS="Tesla V100-SXM2:16GB:4") as peer,
    ):
        peer.prefix = as_person(docker_lab.socket.stat().st_gid)
        give(folder)
        yield Desk(peer, folder)


def test_000_the_pair_of_mnist(desk: Desk) -> None:
    files = {"mnist__mnist_data_DOT_py": MNIST_DATA, "mnist__train_mnist_DOT_py": TRAIN_MNIST}
    code = desk.project("mnist", MNIST, **files)
    wheels = desk.folder / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "torchvision", "DIGITS = '0123456789'")
    make_wheel(wheels, "pytorch_lightning", "")
    make_wheel(wheels, "tensorboard", "")
    give(desk.folder)
    offline = ("-e", "PIP_NO_INDEX=1", "-e", f"PIP_FIND_LINKS={wheels}")

    desk.run(code, "mnist-data", *offline)
    name, _ = desk.run(code, "train-mnist", *offline)

    assert desk.kept(name, "lightning_logs/metrics") == "10 digits"


def test_001_a_job_for_each_workflow_and_none_where_code_and_variables_are_the_same(
    desk: Desk,
) -> None:
    code = desk.project(
        "introduction",
        WORDS_OF_001,
        _DOT_dstack__variables_DOT_yaml=VARIABLES_OF_001,
        rules_DOT_txt="twice\n",
    )

    def weights(*words: str) -> tuple[str, list[str], str]:
        name, told = desk.run(code, "train", *words)
        (shown,) = desk.peer.json("ps", name)["items"]
        jobs = [job["workflow"] for job in shown["jobs"]]
        return desk.kept(name, "model/weights"), jobs, told

    first, jobs, _ = weights()
    assert (first, jobs) == ("lorem\ntwice\n", ["prepare", "train"])
    again, _, told = weights()
    assert again == first and "reused" in told
    (code / "rules.txt").write_text("once\n")  # an uncommitted change
    changed, jobs, _ = weights("--words", "ipsum")
    assert (changed, jobs) == ("ipsum\nonce\n", ["prepare", "train"])


def test_002_workflows_and_a_provider_run_directly(desk: Desk) -> None:
    files = {"prepare_DOT_py": PREPARE, "train_DOT_py": TRAIN, "app_DOT_py": ""}
    code = desk.project("organize", PYTHON, **files)
    arguments = ("--epoch", "100", "--seed", "2", "--batch-size", "128")
    said_by_train = f"lorem {{}} {' '.join(arguments)}"

    desk.run(code, "prepare")
    named, told = desk.run(code, "train", *arguments)
    assert said_by_train.format(4) in told
    direct = ("--dep", "prepare:latest", "--artifact", "checkpoint", "--gpu", "1")
    name, told = desk.run(code, "python", "train.py", *arguments, *direct)
    assert said_by_train.format(1) in told
    for run in (named, name):
        assert desk.kept(run, "checkpoint/model") == "LOREM"
    planned = said(desk.peer.dstack("run", "app", "--dry-run", cwd=code, check=True))
    assert "streamlit" in planned


def test_002_an_editor_says_what_is_missing(desk: Desk) -> None:
    code = desk.project("editor", PYTHON)
    words = ("run", "code", "--artifact", "output", "--gpu", "1", "--no-open")
    ended = desk.peer.dstack(*words, cwd=code, timeout=120)
    assert ended.returncode == 127
    assert "There is no VS Code server on this machine." in said(ended)


def test_002_an_editor_is_led_to(desk: Desk) -> None:
    """As written but for the browser, with a program that serves as VS Code's server does."""
    code = desk.project("served", PYTHON)
    tools = desk.folder / "bin"
    tools.mkdir()
    server = tools / "openvscode-server"
    server.write_text(f"#!{sys.executable}\n{SERVER}")
    server.chmod(0o755)
    give(desk.folder)
    words = (
        "run",
        "code",
        "--artifact",
        "output",
        "--gpu",
        "1",
        "-e",
        f"PATH={tools}:/usr/bin:/bin",
    )
    desk.peer.dstack(*words, "-d", "--no-open", cwd=code, check=True)
    opening = desk.peer.popen(
        (*DSTACK, "app", "@", "--json", "--no-open"),
        cwd=code,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with opening:
        assert opening.stdout is not None
        url = json.loads(opening.stdout.readline())["url"]
        with urllib.request.urlopen(url, timeout=10) as page:
            assert page.read() == b"an editor"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url.partition("?")[0], timeout=10)
        refused.value.close()
        desk.peer.dstack("stop", "@", cwd=code, check=True)
    name = desk.peer.json("ps", "@")["items"][0]["run"]
    assert desk.kept(name, "output/note") == "kept"


def test_003_an_environment_is_kept_in_a_bucket_and_reused(moto: S3Service, tmp_path: Path) -> None:
    place = moto.made()
    conda = make_conda(tmp_path / "conda")
    settings = {**moto.environment, "PATH": f"{conda.parent}:/usr/bin:/bin"}
    code = project(tmp_path / "p", WORDS_OF_003, environment_DOT_yml="dependencies: []\n")
    with alone(tmp_path, CONDA_EXE=str(conda), **settings) as peer:
        region = ("--region", "us-east-1", "--endpoint", moto.endpoint)
        peer.dstack("config", place.url, *region, check=True)
        for workflow in ("setup", "train"):
            peer.dstack("run", workflow, cwd=code, timeout=120, check=True)
        (shown,) = peer.json("ps", cwd=code)["items"]
        assert (shown["workflow"], shown["status"]) == ("train", "done")
        name = str(shown["run"])
        assert b"model" in peer.dstack("artifacts", "list", name, cwd=code, check=True).stdout


def test_004_the_quick_tour(desk: Desk) -> None:
    files = {"prepare_DOT_py": PREPARE, "train_DOT_py": TRAIN}
    code = desk.project("tour", TOUR, _DOT_dstack__variables_DOT_yaml=VARIABLES, **files)

    name, _ = desk.run(code, "prepare", "--gpu", "4")
    status = desk.peer.dstack("status", cwd=code, check=True).stdout.decode().splitlines()
    titles, run, job = (re.split(r" {2,}", line.strip()) for line in status)
    assert titles == ["RUN", "TAG", "JOB", "WORKFLOW", "VARIABLES", "SUBMITTED", "RUNNER", "STATUS"]
    assert run[:4] == [name, "<none>", "prepare", "--gpu 4"]
    assert run[-1] == "DONE"
    assert re.fullmatch(r"[0-9a-f]{12}", job[0])
    assert job[1:3] == ["prepare", "--gpu 4"]
    assert job[-1] == "DONE"

    desk.peer.dstack("tag", name, "latest", cwd=code, check=True)
    trained, told = desk.run(code, "train")
    assert "lorem 1" in told
    assert desk.kept(trained, "checkpoint/model") == "LOREM"


def make_wheel(folder: Path, name: str, source: str) -> None:
    """A package of one module, ready to be installed."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"
    form = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        f"{name}.py": source,
        f"{name}-0.1.dist-info/METADATA": about,
        f"{name}-0.1.dist-info/WHEEL": form,
    }
    record = f"{name}-0.1.dist-info/RECORD"
    with zipfile.ZipFile(folder / f"{name}-0.1-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(record, "".join(f"{path},,\n" for path in (*files, record)))
